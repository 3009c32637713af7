"""
How much a plugin may use: the defaults, the hard caps, and the smallest of all words on it.

A manifest may lower the operator's ceilings, never raise them; an operator may not raise the hard
caps (the settings refuse that). What nobody names has the default of the contract.
"""

from dataclasses import dataclass
from typing import Final

from proxy.hooks.points import AUTHENTICATE, CUSTOM_HOOK
from proxy.settings.plugin_model import PluginLimits, PluginOverrideLimits

KIB: Final = 1024
MIB: Final = 1024 * 1024

DEFAULT_MEMORY_BYTES: Final = 16 * MIB
DEFAULT_FUEL: Final = 5_000_000
DEFAULT_AUTH_FUEL: Final = 50_000_000
DEFAULT_INIT_FUEL: Final = 500_000_000
DEFAULT_TIMEOUT_MS: Final = 10
DEFAULT_AUTH_TIMEOUT_MS: Final = 100
DEFAULT_TRANSFER_BYTES: Final = 64 * KIB

MAX_MEMORY_BYTES: Final = 256 * MIB
MAX_FUEL: Final = 1_000_000_000
MAX_TIMEOUT_MS: Final = 10_000
MAX_TRANSFER_BYTES: Final = MIB
MAX_MODULE_BYTES: Final = 64 * MIB

INIT_TIMEOUT_MS: Final = 5_000
"""A backstop only: fuel ends an initialisation first, and does so the same on a busy machine."""
TABLE_ELEMENTS: Final = 100_000
"""Function tables of large modules hold some thousands; an element is 8 bytes of our memory."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """`[limits]` of a manifest; None where it says nothing."""

    memory_bytes: int | None = None
    fuel: int | None = None
    timeout_ms: int | None = None
    input_bytes: int | None = None
    output_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for one plugin."""

    memory_bytes: int
    fuel: int
    auth_fuel: int
    init_fuel: int
    timeout_ms: int
    auth_timeout_ms: int
    input_bytes: int
    output_bytes: int
    log_line_bytes: int
    log_lines_per_second: int

    def fuel_of(self, hook: int) -> int:
        """Fuel of one call of a hook."""
        return self.auth_fuel if hook in (AUTHENTICATE, CUSTOM_HOOK) else self.fuel

    def timeout_ms_of(self, hook: int) -> int:
        """Wall time of one call of a hook."""
        return self.auth_timeout_ms if hook in (AUTHENTICATE, CUSTOM_HOOK) else self.timeout_ms


def _least(wish: int | None, default: int, override: int | None, ceiling: int, cap: int) -> int:
    value = wish if wish is not None else (override if override is not None else default)
    return min(value, override if override is not None else ceiling, cap)


def effective(wishes: Wishes, ceilings: PluginLimits, override: PluginOverrideLimits) -> Limits:
    """
    The limits of one plugin. `override` is the operator's word on this very plugin: a ceiling in
    place of the general one, and the value where the manifest names none.
    """
    # A manifest has one word for fuel and one for time: those of the statement hooks. The longer
    # calls keep their proportion to them.
    auth_fuel = None if wishes.fuel is None else wishes.fuel * 10
    auth_timeout = None if wishes.timeout_ms is None else wishes.timeout_ms * 10
    return Limits(
        memory_bytes=_least(
            wishes.memory_bytes, DEFAULT_MEMORY_BYTES, override.memory, ceilings.memory,
            MAX_MEMORY_BYTES,
        ),
        fuel=_least(wishes.fuel, DEFAULT_FUEL, override.fuel, ceilings.fuel, MAX_FUEL),
        auth_fuel=_least(
            auth_fuel, DEFAULT_AUTH_FUEL, override.auth_fuel, ceilings.auth_fuel, MAX_FUEL
        ),
        init_fuel=_least(
            None, DEFAULT_INIT_FUEL, override.init_fuel, ceilings.init_fuel, MAX_FUEL
        ),
        timeout_ms=_least(
            wishes.timeout_ms, DEFAULT_TIMEOUT_MS, override.timeout_ms, ceilings.timeout_ms,
            MAX_TIMEOUT_MS,
        ),
        auth_timeout_ms=_least(
            auth_timeout, DEFAULT_AUTH_TIMEOUT_MS, override.auth_timeout_ms,
            ceilings.auth_timeout_ms, MAX_TIMEOUT_MS,
        ),
        input_bytes=_least(
            wishes.input_bytes, DEFAULT_TRANSFER_BYTES, override.input, ceilings.input,
            MAX_TRANSFER_BYTES,
        ),
        output_bytes=_least(
            wishes.output_bytes, DEFAULT_TRANSFER_BYTES, override.output, ceilings.output,
            MAX_TRANSFER_BYTES,
        ),
        log_line_bytes=ceilings.log_line,
        log_lines_per_second=ceilings.log_lines_per_second,
    )  # fmt: skip
