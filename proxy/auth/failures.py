"""
Failed logins per address, and when an address has had enough of them.

A token bucket for each address: as many failures at once as the limit for a minute, and they
come back evenly. Bounded: the addresses that failed longest ago are forgotten first. Knows no
clock: the time is an argument.
"""

from typing import Final, final

MAX_ADDRESSES: Final = 10_000
"""About 2 MiB at most; an attacker with more addresses than that is not stopped by counting."""


@final
class FailureLimiter:
    """
    Which addresses may still try.

    max_per_minute  failures that one address may have; 0 is no limit
    """

    __slots__ = ("_buckets", "max_per_minute")

    def __init__(self, max_per_minute: int) -> None:
        self.max_per_minute = max_per_minute
        # address -> [tokens left, when they were counted]; the latest failure last.
        self._buckets: dict[str, list[float]] = {}

    def retry_after_s(self, address: str, now_s: float) -> float:
        """Seconds until this address may try again; 0.0 when it may now."""
        if self.max_per_minute <= 0 or address == "":
            return 0.0
        bucket = self._buckets.get(network_of(address))
        if bucket is None:
            return 0.0
        tokens = self._tokens(bucket, now_s)
        if tokens >= 1.0:
            return 0.0
        return (1.0 - tokens) * 60.0 / self.max_per_minute

    def failed(self, address: str, now_s: float) -> None:
        """Count one failure. An empty address (a Unix socket's peer) is never counted."""
        if self.max_per_minute <= 0 or address == "":
            return
        network = network_of(address)
        bucket = self._buckets.pop(network, None)
        if bucket is None:
            if len(self._buckets) >= MAX_ADDRESSES:
                self._forget_oldest()
            bucket = [float(self.max_per_minute), now_s]
        bucket[0] = max(0.0, self._tokens(bucket, now_s) - 1.0)
        bucket[1] = now_s
        self._buckets[network] = bucket

    def __len__(self) -> int:
        return len(self._buckets)

    def _tokens(self, bucket: list[float], now_s: float) -> float:
        elapsed_s = max(0.0, now_s - bucket[1])
        limit = float(self.max_per_minute)
        return min(limit, bucket[0] + elapsed_s * limit / 60.0)

    def _forget_oldest(self) -> None:
        del self._buckets[next(iter(self._buckets))]


def network_of(address: str) -> str:
    """
    Who is counted together: an IPv4 address alone, an IPv6 address with its /64, which is what one
    customer of a provider has at least.
    """
    if ":" not in address:
        return address
    bare = address.split("%", 1)[0].lower()
    if bare.startswith("::ffff:") and "." in bare:
        return bare[7:]
    head, gap, tail = bare.partition("::")
    groups = head.split(":") if head != "" else []
    if gap != "":
        behind = tail.split(":") if tail != "" else []
        groups = groups + ["0"] * max(0, 8 - len(groups) - len(behind)) + behind
    return ":".join([group.lstrip("0") or "0" for group in groups[:4]]) + "::/64"
