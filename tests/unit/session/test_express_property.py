"""`session.express` and the long way do the same, whatever a client sends and however the replies come."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Refusal
from proxy.protocol import frontend
from proxy.session.inspection import VERDICT_REFUSE, Inspection
from proxy.session.ports import Classifier
from tests.support.playbook import (
    CLASSIFIER,
    Playbook,
    Slow,
    bind,
    close,
    describe,
    execute,
    parse,
    query,
)
from tests.support.small_postgres import SmallPostgres

SYNC = frontend.SYNC
DESCRIBED = describe(b"", frontend.PORTAL)

TEXTS = [b"SELECT 1", b"SELECT 2", b"SELECT 1/0", b"UPDATE t SET a = 1", b"BEGIN", b"COMMIT"]
names = st.sampled_from([b"", b"a"])


def run(name: bytes, is_described: bool) -> bytes:
    return bind(name) + (DESCRIBED if is_described else b"") + execute() + SYNC


units = st.one_of(
    st.sampled_from(TEXTS).map(query),
    st.builds(run, names, st.booleans()),
    st.builds(
        lambda text, is_described: parse(b"", text) + run(b"", is_described),
        st.sampled_from(TEXTS),
        st.booleans(),
    ),
    st.sampled_from(TEXTS).map(lambda text: parse(b"a", text) + SYNC),
    st.just(close(b"a") + SYNC),
)
scripts = st.lists(
    st.tuples(st.lists(units, min_size=1, max_size=2), st.integers(0, 40)), max_size=8
)


class Served:
    """A session with a small server behind each of two links, which take turns."""

    def __init__(self, classifier: Classifier, gates: int) -> None:
        self.play = Playbook(links=2, classifier=classifier)
        gate = self.play.gate
        gate.judges = gates > 0
        gate.judges_at_once = gates > 1
        gate.rules[b"SELECT 2"] = refuse
        self.servers = [SmallPostgres(), SmallPostgres()]
        self.replies: list[bytes] = []
        self.was_express = False

    def send(self, data: bytes, cut: int) -> None:
        """Send; the replies come in two pieces, cut there."""
        play = self.play
        play.broker.free = play.broker.free[1:] + play.broker.free[:1]
        play.session.receive_from_frontend(data)
        is_quiet = False
        while not is_quiet:
            is_quiet = True
            for number, server in enumerate(self.servers):
                got = play.wire_of(number).take()
                if got:
                    is_quiet = False
                    self.was_express |= play.links[number].is_express
                    reply = server.receive(got)
                    play.from_server(number, reply[:cut])
                    play.from_server(number, reply[cut:])
        self.replies.append(play.client.take())


def refuse(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_REFUSE
    inspection.refusal = Refusal("42000", "not this one")


def both(script: Sequence[tuple[list[bytes], int]], gates: int = 0) -> Served:
    """Run a script both ways; with no plugins (0), with some (1), with some that answer at once (2)."""
    for text in TEXTS:
        CLASSIFIER.facts(text)
    fast = Served(CLASSIFIER, gates)
    slow = Served(Slow(), gates)
    for data, cut in script:
        for served in (fast, slow):
            served.send(b"".join(data), cut)
    for number in range(2):
        assert fast.play.links[number].is_express is False
    assert not slow.was_express
    # What has run can be seen: each answers its own text.
    assert fast.replies == slow.replies
    one, other = fast.play.session, slow.play.session
    assert (one.queries, one.transactions, one.status) == (
        other.queries,
        other.transactions,
        other.status,
    )
    assert fast.play.counters.queries == slow.play.counters.queries
    assert fast.play.counters.sqlstates == slow.play.counters.sqlstates
    judged = [(one.facts.text, one.is_extended, one.phase) for one in fast.play.gate.seen]
    assert judged == [(one.facts.text, one.is_extended, one.phase) for one in slow.play.gate.seen]
    return fast


@given(scripts, st.integers(0, 2))
def test_the_express_way_and_the_long_way_are_the_same(
    script: list[tuple[list[bytes], int]], gates: int
) -> None:
    both(script, gates)


@pytest.mark.parametrize("gates", [0, 1, 2])
def test_the_property_sees_the_express_way(gates: int) -> None:
    served = both([([query(TEXTS[0])], 0)] * 2, gates)
    assert served.was_express
    assert len(served.play.gate.seen) == (2 if gates else 0)
