"""Defaults, ceilings and caps: the smallest word counts."""

from proxy.hooks.points import AUTHENTICATE, CUSTOM_HOOK, PRE_QUERY
from proxy.plugins.limits import MIB, Wishes, effective
from proxy.settings.plugin_model import PluginLimits, PluginOverrideLimits

NO = PluginOverrideLimits()


def test_defaults_of_the_contract():
    limits = effective(Wishes(), PluginLimits(), NO)
    assert limits.memory_bytes == 16 * MIB
    assert (limits.fuel, limits.auth_fuel, limits.init_fuel) == (
        5_000_000,
        50_000_000,
        500_000_000,
    )
    assert (limits.timeout_ms, limits.auth_timeout_ms) == (10, 100)
    assert (limits.input_bytes, limits.output_bytes) == (65_536, 65_536)


def test_a_manifest_lowers_and_never_raises():
    ceilings = PluginLimits(memory=32 * MIB, fuel=7_000_000, timeout_ms=20)
    low = effective(Wishes(memory_bytes=MIB, fuel=1000, timeout_ms=1), ceilings, NO)
    assert (low.memory_bytes, low.fuel, low.timeout_ms) == (MIB, 1000, 1)
    assert (low.auth_fuel, low.auth_timeout_ms) == (10_000, 10)
    high = effective(Wishes(memory_bytes=64 * MIB, fuel=10**9, timeout_ms=9000), ceilings, NO)
    assert (high.memory_bytes, high.fuel, high.timeout_ms) == (32 * MIB, 7_000_000, 20)


def test_a_ceiling_below_the_default_holds():
    limits = effective(Wishes(), PluginLimits(memory=MIB, fuel=1000, timeout_ms=1), NO)
    assert (limits.memory_bytes, limits.fuel, limits.timeout_ms) == (MIB, 1000, 1)


def test_the_operators_word_on_one_plugin():
    override = PluginOverrideLimits(memory=128 * MIB, fuel=20_000_000, timeout_ms=100)
    said = effective(Wishes(memory_bytes=100 * MIB), PluginLimits(), override)
    assert said.memory_bytes == 100 * MIB
    assert (said.fuel, said.timeout_ms) == (20_000_000, 100)


def test_which_limit_is_whose():
    limits = effective(Wishes(), PluginLimits(), NO)
    assert limits.fuel_of(PRE_QUERY) == limits.fuel
    assert limits.fuel_of(AUTHENTICATE) == limits.fuel_of(CUSTOM_HOOK) == limits.auth_fuel
    assert limits.timeout_ms_of(PRE_QUERY) == 10
    assert limits.timeout_ms_of(CUSTOM_HOOK) == 100
