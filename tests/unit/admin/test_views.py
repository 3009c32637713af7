"""Rows about clients and server connections."""

from typing import Any, cast

import pytest

from proxy.admin import views
from proxy.pool.assignment import Slot
from proxy.server.worker import Worker
from proxy.session.link import BackendLink
from proxy.session.relay import WAITING
from proxy.session.session import Session
from proxy.session.tuning import POOL_TRANSACTION, SessionTuning
from tests.unit.admin.test_console_wire import Recorder


@pytest.fixture
def session(worker: Worker) -> Session:
    from proxy.session.context import ClientContext

    context = ClientContext("w0-9", "10.0.0.7", True, 1000.0)
    context.user = "alice"
    context.database = "app"
    made = Session(
        context, Recorder(), worker.pipeline, worker.pools.broker, worker.classifier, worker.clock,
        worker.counters, SessionTuning(POOL_TRANSACTION, 1 << 20, 10, 1 << 20), worker.welcomes, {},
    )  # fmt: skip

    class Connection:
        session = made

    worker.connections[cast(Any, Connection())] = None
    return made


async def test_a_client(worker: Worker, session: Session) -> None:
    session.queries = 3
    session.state.pins = ["LISTEN"]
    row = views.clients(worker)[0]
    assert (row["id"], row["user"], row["database"], row["address"]) == (
        "w0-9", "alice", "app", "10.0.0.7",
    )  # fmt: skip
    assert (row["queries"], row["pins"], row["is_tls"], row["state"]) == (
        3, ["LISTEN"], True, "starting",
    )  # fmt: skip
    assert row["wait_us"] == 0


async def test_a_client_that_waits(worker: Worker, session: Session) -> None:
    session.phase = WAITING
    session.waiting_since_us = worker.clock.now_us() - 1_000_000
    assert views.clients(worker)[0]["wait_us"] >= 1_000_000


async def test_totals_include_those_still_here(worker: Worker, session: Session) -> None:
    worker.totals.add("app", 5, 10, 20, 4, 50, 60)
    session.queries = 2
    session.transactions = 1
    session.query_us = session.transaction_us = 7
    assert views.totals(worker) == [
        {
            "database": "app",
            "clients": 2,
            "queries": 7,
            "bytes_in": 10,
            "bytes_out": 20,
            "transactions": 5,
            "query_us": 57,
            "transaction_us": 67,
        },
    ]


async def test_a_server_connection_and_whom_it_serves(worker: Worker, session: Session) -> None:
    broker = worker.pools.broker
    destination = broker.directory.find("app", "alice")
    assert destination is not None
    pool = broker.registry.pool_for(destination, worker.pools.nodes.by_name["pg1"], 0.0)
    slot = Slot(pool)
    slot.link = BackendLink(
        Recorder(), "app", "alice", "pg1", 4242, b"secret", {}, worker.clock.now_us() / 1e6
    )
    slot.link.user_session = session
    pool.slots[slot] = None
    row = views.servers(worker)[0]
    assert (row["server_pid"], row["client"], row["state"]) == (4242, "w0-9", "opening")
    assert "secret" not in str(row)
    pool.slots.clear()
