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
    here = CancelRegistry(Counters(), 1, forwarder, workers=3, shared=b"s")
    there = CancelRegistry(Counters(), 2, workers=3, shared=b"s")
    session = Session()
    for _ in range(20):
        key = there.register(session, 0)
        assert worker_of(key.process_id) == 2
        await here.handle(key.process_id, key.secret_key)
        assert forwarder.requests.pop() == (2, key.process_id, key.secret_key)
        assert there.cancel_here(key.process_id, key.secret_key)
    assert session.cancelled == 20
    key = here.register(session, 0)
    await here.handle(key.process_id, key.secret_key)
    assert forwarder.requests == []
    assert session.cancelled == 21


async def test_a_secret_says_nothing_without_the_shared_key() -> None:
    forwarder = Forwarder()
    here = CancelRegistry(Counters(), 0, forwarder, workers=4, shared=b"s")
    there = CancelRegistry(Counters(), 3, workers=4, shared=b"another")
    asked: set[int] = set()
    for _ in range(60):
        key = there.register(Session(), 2)
        await here.handle(key.process_id, key.secret_key)
    asked = {worker for worker, _, _ in forwarder.requests}
    assert asked == {1, 2, 3}


async def test_a_key_has_the_process_id_of_its_server_and_keeps_its_secret() -> None:
    forwarder = Forwarder()
    registry = CancelRegistry(Counters(), 1, forwarder, workers=2, shared=b"s")
    one, other = Session(), Session()
    # Two servers have processes of the same number.
    first = registry.register(one, 0)
    key = registry.rename(first, 4711)
    same = registry.rename(registry.register(other, 0), 4711)
    assert (key.process_id, same.process_id, key.secret_key) == (4711, 4711, first.secret_key)
    assert len(registry) == 2
    await registry.handle(4711, key.secret_key)
    assert (one.cancelled, other.cancelled) == (1, 0)
    await registry.handle(first.process_id, key.secret_key)
    assert (one.cancelled, other.cancelled) == (1, 0)
    registry.unregister(key)
    await registry.handle(4711, key.secret_key)
    await registry.handle(4711, same.secret_key)
    assert (one.cancelled, other.cancelled) == (1, 1)
    assert forwarder.requests == []
    registry.unregister(same)
    assert len(registry) == 0


def test_a_key_that_is_known_no_more_or_taken_is_not_renamed() -> None:
    secrets = itertools.chain([b"d" * 32, b"\0\0\1", b"same", b"\0\0\2", b"same"])
    registry = CancelRegistry(Counters(), random_bytes=lambda size: next(secrets))
    one = registry.rename(registry.register(Session(), 0), 4711)
    other = registry.register(Session(), 0)
    assert registry.rename(other, 4711) is other
    registry.unregister(one)
    assert registry.rename(one, 4712) is one


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
