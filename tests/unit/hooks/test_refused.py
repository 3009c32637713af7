"""The last refused statements: who, what and why, without constants and within bounds."""

from proxy.errors import PluginFailed
from proxy.hooks.points import AUTHORIZE, BLOCKED, PRE_QUERY
from proxy.hooks.refused import KEPT, RefusedStatements
from proxy.sql.classify import PgClassifier
from tests.unit.hooks.fakes import FakeSubscriber, Setup, unknown_facts_of


def keeping(*subscribers: FakeSubscriber) -> tuple[Setup, RefusedStatements]:
    setup = Setup(*subscribers)
    refused = RefusedStatements(lambda: 1000.5)
    setup.pipeline.refused = refused
    return setup, refused


def test_a_block_is_kept_with_who_and_why() -> None:
    reason = b'{"action":"block","value":"DROP is not allowed","sqlstate":"42501"}'
    setup, refused = keeping(FakeSubscriber(PRE_QUERY, reason, name="no-drop"))
    inspection = setup.inspection()
    inspection.facts = PgClassifier().exact(b"DELETE FROM t WHERE card = '4111'").statements[0]
    setup.pipeline.judge(inspection)
    (kept,) = refused.last()
    assert kept == {
        "time_s": 1000.5,
        "client": "w0-17",
        "user": "alice",
        "identity": "alice",
        "database": "app",
        "client_addr": "10.0.0.7",
        "application_name": "psql",
        "plugin": "no-drop",
        "hook": "pre_query",
        "sqlstate": "42501",
        "message": "Query blocked by plugin: DROP is not allowed",
        "kind": "delete",
        "statement": "DELETE FROM t WHERE card = $1",
        "fingerprint": inspection.facts.fingerprint,
    }


def test_who_failed_closed_is_named() -> None:
    trap = PluginFailed("guard", "trap", "unreachable")
    setup, refused = keeping(FakeSubscriber(AUTHORIZE, trap, name="guard", closed=True))
    setup.judge()
    (kept,) = refused.last()
    assert (kept["plugin"], kept["hook"], kept["sqlstate"]) == ("guard", "authorize", "58000")


def test_a_text_that_is_not_understood_is_not_kept() -> None:
    setup, refused = keeping(FakeSubscriber(PRE_QUERY))
    setup.pipeline.configure(20_000, True, None)
    inspection = setup.inspection()
    inspection.facts = unknown_facts_of("SELEC 'secret'")
    setup.pipeline.judge(inspection)
    (kept,) = refused.last()
    assert kept["statement"] is None
    assert (kept["plugin"], kept["hook"], kept["sqlstate"]) == ("", "", "42000")


def test_what_passes_is_not_kept_and_the_rest_is_bounded() -> None:
    setup, refused = keeping(FakeSubscriber(PRE_QUERY, None))
    setup.judge()
    assert refused.last() == []
    setup, refused = keeping(FakeSubscriber(PRE_QUERY, BLOCKED))
    for _ in range(KEPT + 5):
        setup.judge()
    assert len(refused.last()) == KEPT


def test_long_texts_are_cut() -> None:
    setup, refused = keeping(FakeSubscriber(PRE_QUERY, BLOCKED))
    setup.judge("select " + "x" * 10_000)
    assert len(refused.last()[0]["statement"]) == 500
