"""Rules 9, 11 and 12: a client's names of statements mean what they would mean on one server."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol import backend, frontend
from tests.support.playbook import (
    READY,
    FakeWire,
    Playbook,
    bind,
    complete,
    error,
    execute,
    parse,
    query,
)
from tests.support.small_postgres import ROLLBACKS, SmallPostgres

NAMES = [b"a", b"b"]
TEXTS = [b"SELECT 1", b"SELECT 2", b"SELECT 1/0", b"SELEC 1"]
COMMANDS = [
    b"BEGIN", b"COMMIT", b"ROLLBACK", b"SELECT 3", b"SELECT 1/0", b"EXECUTE a", b"DEALLOCATE a",
    b"DEALLOCATE b", b"DEALLOCATE ALL", b"PREPARE a AS SELECT 4", b"PREPARE b AS SELECT 5",
    b"DISCARD ALL",
]  # fmt: skip
SYNC = frontend.SYNC


def describe(name: bytes) -> bytes:
    return frontend.Describe(frontend.STATEMENT, name).encode()


def close(name: bytes) -> bytes:
    return frontend.Close(frontend.STATEMENT, name).encode()


def run(text: bytes) -> bytes:
    return parse(b"", text) + bind(b"") + execute()


class Served:
    """A session with a small server behind each of its links; the links take turns."""

    def __init__(self, links: int = 2) -> None:
        self.play = Playbook(links=links, max_prepared=3)
        self.servers = [SmallPostgres() for _ in range(links)]

    def send(self, data: bytes) -> bytes:
        broker = self.play.broker
        broker.free = broker.free[1:] + broker.free[:1]
        self.play.session.receive_from_frontend(data)
        is_quiet = False
        while not is_quiet:
            is_quiet = True
            for link, server in zip(self.play.links, self.servers, strict=True):
                assert isinstance(link.wire, FakeWire)
                data = link.wire.take()
                if data:
                    is_quiet = False
                    link.receive_from_backend(server.receive(data))
        return self.play.client.take()


def same(script: Sequence[bytes]) -> bytes:
    """What a client gets, which must be the same from a server and through the proxy."""
    server = SmallPostgres()
    served = Served()
    wanted = b"".join(server.receive(data) for data in script)
    assert blurred(b"".join(served.send(data) for data in script)) == blurred(wanted)
    return wanted


def blurred(replies: bytes) -> bytes:
    """Two names of one text in one Query: an error may speak of the other one."""
    return replies.replace(b'"b"', b'"a"')


names = st.sampled_from(NAMES)
any_names = st.sampled_from([*NAMES, b""])
messages = st.one_of(
    st.builds(parse, any_names, st.sampled_from(TEXTS)),
    # Only of b: an EXECUTE of a statement that is a command itself is not looked into.
    st.builds(parse, st.sampled_from([b"", b"b"]), st.sampled_from(COMMANDS)),
    # Only of a: what is bound and not executed must do nothing to names.
    st.just(bind(b"a")),
    st.just(bind(b"b") + execute()),
    st.builds(close, any_names),
    st.builds(describe, any_names),
    st.sampled_from(TEXTS + COMMANDS).map(run),
)
groups = st.lists(messages, max_size=6).flatmap(
    lambda found: st.one_of(
        st.just(b"".join(found) + SYNC),
        st.sampled_from(COMMANDS).map(lambda text: b"".join(found) + query(text) + SYNC),
    )
)
# Behind a ROLLBACK of a failed transaction, in one text, there is no way to prepare anything.
queries = st.one_of(
    st.sampled_from(COMMANDS).map(query),
    st.lists(st.sampled_from([text for text in COMMANDS if text not in ROLLBACKS]), max_size=3).map(
        lambda found: query(b"; ".join([*found, b"COMMIT"]))
    ),
)
scripts = st.lists(groups | queries, max_size=8)


@given(scripts)
def test_names_survive_any_order_of_parse_close_deallocate_and_errors(script: list[bytes]) -> None:
    same(script)


TAKEN = b'C42P05\x00Mprepared statement "a" already exists'
ABORTED = b"C25P02"


@pytest.mark.parametrize(
    ("script", "errors"),
    [
        pytest.param([parse(b"a", TEXTS[0]) + parse(b"a", TEXTS[1]) + SYNC, bind(b"a") + execute()
                      + SYNC], [TAKEN], id="taken"),
        pytest.param([parse(b"a", TEXTS[3]) + SYNC, parse(b"a", TEXTS[0]) + bind(b"a") + execute()
                      + SYNC], [b"C42601"], id="not taken by what failed"),
        pytest.param([run(TEXTS[2]) + parse(b"a", TEXTS[0]) + SYNC, bind(b"a") + SYNC],
                     [b"C22012", b"C26000"], id="not taken by what was skipped"),
        pytest.param([parse(b"a", TEXTS[0]) + SYNC, run(TEXTS[2]) + close(b"a") + SYNC, bind(b"a")
                      + execute() + SYNC], [b"C22012"], id="not free by what was skipped"),
        pytest.param([parse(b"a", TEXTS[0]) + SYNC, close(b"a") + bind(b"a") + SYNC, bind(b"a")
                      + SYNC], [b"C26000"] * 2, id="free by what was done before an error"),
        pytest.param([query(b"BEGIN"), parse(b"a", TEXTS[0]) + SYNC, query(b"ROLLBACK"), bind(b"a")
                      + execute() + SYNC], [], id="rule 12, kept over a rollback"),
        pytest.param([query(b"BEGIN"), parse(b"a", TEXTS[0]) + SYNC, query(TEXTS[2]),
                      parse(b"a", TEXTS[0]) + SYNC, parse(b"a", TEXTS[0]) + query(b"SELECT 3"), SYNC,
                      parse(b"a", b"ROLLBACK") + SYNC, bind(b"a") + SYNC, query(b"ROLLBACK")],
                     [b"C22012", ABORTED, ABORTED, TAKEN, ABORTED], id="in a failed transaction"),
        pytest.param([parse(b"", b"DEALLOCATE ALL") + parse(b"a", TEXTS[0]) + SYNC, bind(b"")
                      + execute() + SYNC, bind(b"a") + SYNC, bind(b"") + SYNC], [b"C26000"],
                     id="the unnamed one outlives DEALLOCATE ALL"),
        pytest.param([parse(b"a", TEXTS[0]) + SYNC, run(b"DEALLOCATE a")
                      + run(b"PREPARE a AS SELECT 4") + run(b"EXECUTE a") + SYNC,
                      query(b"EXECUTE a"), query(b"PREPARE a AS SELECT 5")], [TAKEN],
                     id="given away in a pipeline"),
        pytest.param([parse(b"a", TEXTS[0]) + SYNC, run(b"DISCARD ALL")
                      + run(b"PREPARE a AS SELECT 4") + query(b"EXECUTE a"),
                      query(b"EXECUTE a")], [], id="given away before a Query"),
        pytest.param([parse(b"a", TEXTS[0]) + SYNC, run(b"DEALLOCATE a") + parse(b"a", TEXTS[1])
                      + bind(b"a") + execute() + run(b"EXECUTE a") + SYNC], [],
                     id="taken again in a pipeline"),
        pytest.param([parse(b"a", TEXTS[0]) + SYNC, run(b"DEALLOCATE b") + parse(b"a", TEXTS[1])
                      + SYNC, bind(b"a") + execute() + SYNC], [b"C26000"],
                     id="not taken again behind an error"),
        pytest.param([run(b"PREPARE a AS SELECT 4") + bind(b"a") + execute() + describe(b"a")
                      + close(b"a") + bind(b"a") + SYNC], [b"C26000"],
                     id="made in SQL and used in a pipeline"),
        pytest.param([parse(b"a", TEXTS[0]) + SYNC, run(b"EXECUTE a") + close(b"a") + SYNC,
                      query(b"EXECUTE a")], [b"C26000"], id="closed behind its use"),
        pytest.param([parse(b"a", TEXTS[0]) + parse(b"b", TEXTS[0]) + SYNC,
                      query(b"DEALLOCATE a; EXECUTE b; DEALLOCATE b"), bind(b"b") + SYNC],
                     [b"C26000"], id="two names of one text"),
        pytest.param([parse(b"a", TEXTS[0]) + parse(b"b", b"DEALLOCATE a") + describe(b"b") + SYNC,
                      bind(b"a") + execute() + bind(b"b") + execute() + run(b"EXECUTE a") + SYNC],
                     [b'C26000\x00Mprepared statement "a" does not exist'],
                     id="a description gives nothing away"),
    ],
)  # fmt: skip
def test_what_a_name_means(script: list[bytes], errors: list[bytes]) -> None:
    replies = same(script)
    assert replies.count(b"SERROR") == len(errors)
    at = 0
    for found in errors:
        at = replies.index(found, at) + 1


def test_names_of_the_proxy_are_seen_by_no_client() -> None:
    served = Served(1)
    served.send(parse(b"a", TEXTS[0]) + parse(b"b", TEXTS[1]) + SYNC)
    assert served.servers[0].statements.keys() == {b"headgate_1", b"headgate_2"}
    assert b"headgate" not in served.send(query(b"DEALLOCATE a; DEALLOCATE a"))
    assert served.play.session.intake.statements.keys() == {b"b"}
    assert served.servers[0].statements.keys() == {b"headgate_2"}


def test_a_name_is_another_one_on_each_connection() -> None:
    served = Served(2)
    served.send(parse(b"a", TEXTS[0]) + SYNC)
    for _ in range(4):
        assert TEXTS[0] in served.send(bind(b"a") + execute() + SYNC)
        assert TEXTS[0] in served.send(query(b"EXECUTE a"))
    assert [list(server.statements) for server in served.servers] == [[b"headgate_1"]] * 2


def test_the_oldest_statements_are_closed_and_none_of_the_batch() -> None:
    """Rule 10: never evict one that the current batch uses."""
    served = Served(1)
    for name in (b"a", b"b", b"c"):
        served.send(parse(name, b"SELECT '" + name + b"'") + SYNC)
    served.send(bind(b"a") + execute() + SYNC)
    served.send(parse(b"d", b"SELECT 'd'") + SYNC)
    texts = {statement.text for statement in served.servers[0].statements.values()}
    assert texts == {b"SELECT 'a'", b"SELECT 'c'", b"SELECT 'd'"}
    together = b"".join(bind(name) + execute() for name in (b"a", b"b", b"c", b"d"))
    replies = served.send(together + SYNC)
    assert replies.count(backend.BIND_COMPLETE) == 4
    assert len(served.servers[0].statements) == len(served.play.link.prepared) == 4


def test_an_error_of_a_bind_speaks_of_the_clients_name() -> None:
    play = Playbook()
    play.f(parse(b"a", b"SELECT 1") + parse(b"b", b"SELECT 2") + SYNC)
    play.b(backend.PARSE_COMPLETE * 2 + READY)
    play.f(bind(b"a") + execute() + bind(b"b") + execute() + SYNC)
    play.b(backend.BIND_COMPLETE + complete(b"SELECT 1"))
    told = 'bind message supplies 0 parameters, but prepared statement "%s" requires 1'
    assert play.b(error("08P01", told % "headgate_2") + READY) == error("08P01", told % "b") + READY


@pytest.mark.parametrize("name", [b"b", b""])
@pytest.mark.parametrize("text", [b"EXECUTE a", b"DEALLOCATE a"])
def test_an_error_of_a_bind_speaks_of_the_clients_name_for_a_command(
    name: bytes, text: bytes
) -> None:
    play = Playbook()
    play.f(parse(b"a", b"SELECT 1") + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    sent = play.f(parse(name, text) + bind(name) + execute() + SYNC)
    own = f"headgate_{2 + len(name)}"
    assert sent.count(own.encode()) == 2
    play.b(backend.PARSE_COMPLETE * 2)
    told = 'bind message supplies 1 parameters, but prepared statement "%s" requires 0'
    wanted = error("08P01", told % name.decode()) + READY
    assert play.b(error("08P01", told % own) + READY) == wanted


def test_a_statement_that_was_to_be_dropped_and_was_not_is_closed() -> None:
    served = Served(1)
    served.send(parse(b"a", TEXTS[0]) + SYNC)
    assert b"C22012" in served.send(query(b"SELECT 1/0; DEALLOCATE a"))
    assert TEXTS[0] in served.send(query(b"EXECUTE a"))
    assert list(served.servers[0].statements) == [b"headgate_2"]
    assert served.play.link.garbage == []
