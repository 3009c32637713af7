"""Cancel keys: found, refused, forwarded, forgotten."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.counters import Counters
from proxy.server.cancel import CancelForwarder, CancelRegistry, worker_of
from proxy.session.tuning import CancelKey


class Session:
    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


class Forwarder(CancelForwarder):
    def __init__(self) -> None:
        self.requests: list[tuple[int, int, bytes]] = []

    async def forward(self, worker: int, process_id: int, secret_key: bytes) -> None:
        self.requests.append((worker, process_id, secret_key))


async def test_the_right_key_cancels_its_session_and_no_other() -> None:
    counters = Counters()
    registry = CancelRegistry(counters)
    one, other = Session(), Session()
    key = registry.register(one, 0)
    registry.register(other, 0)
    await registry.handle(key.process_id, key.secret_key)
    assert (one.cancelled, other.cancelled, counters.cancels) == (1, 0, 1)


async def test_wrong_keys_and_unknown_process_ids_do_nothing_but_count() -> None:
    counters = Counters()
    registry = CancelRegistry(counters)
    session = Session()
    key = registry.register(session, 2)
    await registry.handle(key.process_id, b"\0" * 32)
    await registry.handle(key.process_id, key.secret_key[:4])
    await registry.handle(key.process_id + 1, key.secret_key)
    assert session.cancelled == 0
    assert counters.by_cause == {"cancel_wrong_key": 3}


async def test_a_forgotten_key_is_wrong() -> None:
    registry = CancelRegistry(Counters())
    session = Session()
    key = registry.register(session, 0)
    registry.unregister(CancelKey(key.process_id, b"none"))
    assert len(registry) == 1
    registry.unregister(key)
    registry.unregister(key)
    await registry.handle(key.process_id, key.secret_key)
    assert session.cancelled == 0
    assert len(registry) == 0


def test_keys_are_as_long_as_the_protocol_version_allows() -> None:
    registry = CancelRegistry(Counters())
    assert len(registry.register(Session(), 0).secret_key) == 4
    assert len(registry.register(Session(), 2).secret_key) == 32


async def test_a_request_for_another_worker_is_passed_on() -> None:
    forwarder = Forwarder()
    here = CancelRegistry(Counters(), worker=1, forwarder=forwarder)
    there = CancelRegistry(Counters(), worker=2)
    session = Session()
    key = there.register(session, 0)
    assert worker_of(key.process_id) == 2
    await here.handle(key.process_id, key.secret_key)
    assert forwarder.requests == [(2, key.process_id, key.secret_key)]
    assert there.cancel_here(key.process_id, key.secret_key)
    assert session.cancelled == 1


def test_a_process_id_is_never_given_twice_nor_zero() -> None:
    numbers = itertools.chain([b"\0\0\0", b"\0\0\1", b"\0\0\1", b"\0\0\2"])

    def random_bytes(size: int) -> bytes:
        return next(numbers) if size == 3 else b"k" * size

    registry = CancelRegistry(Counters(), random_bytes=random_bytes)
    assert registry.register(Session(), 0).process_id == 1
    assert registry.register(Session(), 0).process_id == 2


def test_a_key_does_not_show_its_secret() -> None:
    assert repr(CancelKey(7, b"\xff\xfe")) == "CancelKey(process_id=7)"


@given(st.integers(min_value=-(2**31), max_value=2**32), st.binary(max_size=260))
async def test_any_request_is_survived(process_id: int, secret_key: bytes) -> None:
    registry = CancelRegistry(Counters())
    session = Session()
    registry.register(session, 0)
    await registry.handle(process_id, secret_key)
    assert session.cancelled == 0
