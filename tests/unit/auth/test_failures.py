"""Failed logins per address: how many, for how long, and how many addresses are kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.auth import failures
from proxy.auth.failures import MAX_ADDRESSES, FailureLimiter, network_of


def test_as_many_as_the_limit_and_then_evenly_again() -> None:
    limiter = FailureLimiter(6)
    for _ in range(6):
        assert limiter.retry_after_s("192.0.2.1", 100.0) == 0.0
        limiter.failed("192.0.2.1", 100.0)
    assert limiter.retry_after_s("192.0.2.1", 100.0) == pytest.approx(10.0)
    assert limiter.retry_after_s("192.0.2.1", 104.0) == pytest.approx(6.0)
    assert limiter.retry_after_s("192.0.2.1", 110.0) == 0.0
    assert limiter.retry_after_s("192.0.2.2", 100.0) == 0.0
    limiter.failed("192.0.2.1", 110.0)
    assert limiter.retry_after_s("192.0.2.1", 110.0) == pytest.approx(10.0)


def test_after_a_while_everything_is_forgiven() -> None:
    limiter = FailureLimiter(2)
    limiter.failed("192.0.2.1", 0.0)
    limiter.failed("192.0.2.1", 0.0)
    limiter.failed("192.0.2.1", 600.0)
    assert limiter.retry_after_s("192.0.2.1", 600.0) == 0.0


def test_no_limit_and_unix_sockets_are_never_counted() -> None:
    unlimited = FailureLimiter(0)
    unlimited.failed("192.0.2.1", 0.0)
    assert unlimited.retry_after_s("192.0.2.1", 0.0) == 0.0
    limited = FailureLimiter(1)
    limited.failed("", 0.0)
    assert limited.retry_after_s("", 0.0) == 0.0
    assert len(limited) == len(unlimited) == 0


def test_a_clock_that_stands_or_goes_back_forgives_nothing() -> None:
    limiter = FailureLimiter(1)
    limiter.failed("192.0.2.1", 100.0)
    assert limiter.retry_after_s("192.0.2.1", 50.0) == pytest.approx(60.0)


def test_the_table_is_bounded_and_forgets_the_oldest() -> None:
    limiter = FailureLimiter(1)
    for number in range(MAX_ADDRESSES):
        limiter.failed(f"a{number}", 0.0)
    limiter.failed("a0", 0.0)
    limiter.failed("one more", 0.0)
    assert len(limiter) == MAX_ADDRESSES
    assert limiter.retry_after_s("a1", 0.0) == 0.0
    assert limiter.retry_after_s("a0", 0.0) > 0.0
    assert limiter.retry_after_s("one more", 0.0) > 0.0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0DB8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8::1", "2001:db8:0:0::/64"),
        ("::1", "0:0:0:0::/64"),
        ("fe80::1%eth0", "fe80:0:0:0::/64"),
    ],
)
def test_who_is_counted_together(address: str, network: str) -> None:
    assert network_of(address) == network


def test_neighbours_of_a_network_share_its_failures() -> None:
    limiter = FailureLimiter(1)
    limiter.failed("2001:db8:1:2::1", 0.0)
    assert limiter.retry_after_s("2001:db8:1:2:ffff::9", 0.0) > 0.0
    assert limiter.retry_after_s("2001:db8:1:3::1", 0.0) == 0.0


@given(st.text(max_size=60))
def test_any_text_is_an_address(address: str) -> None:
    limiter = failures.FailureLimiter(1)
    limiter.failed(address, 0.0)
    assert (limiter.retry_after_s(address, 0.0) > 0.0) == (address != "")
