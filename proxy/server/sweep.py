"""
Time-outs of sessions, by looking at all of them a few times a second; and what statements wait for
that the proxy can give them.

One loop over plain integers costs less than a timer that is set and cancelled for every statement.
"""

from collections.abc import Callable, Iterable
from typing import Final

from proxy.errors import Refusal
from proxy.protocol import tags
from proxy.routing.node import Node
from proxy.server.frontend import FrontendConnection
from proxy.session.exchange import Exchange
from proxy.session.relay import BUSY, IDLE
from proxy.session.session import Session
from proxy.settings.model import Pool

CANCEL_GRACE_US: Final = 10_000_000
"""How long a server may take to end what it was asked to cancel; then the connection ends instead."""

VACATE_AFTER_US: Final = 100_000
"""
A statement that needs a database for itself and still runs has passed the server's checks, and waits:
who may not drop it closes nobody's connections.
"""

VACATE_UNTIL_US: Final = 6_000_000
"""The server waits for five seconds."""


def sweep(
    connections: Iterable[FrontendConnection],
    pool: Pool,
    nodes: Iterable[Node],
    now_us: int,
    vacate: Callable[[str], None],
) -> None:
    """Cancel what runs too long, close who is idle too long, tell who waits, leave dead nodes."""
    down = [node.name for node in nodes if not node.is_up]
    query_us = int(pool.query_timeout * 1e6)
    transaction_us = int(pool.idle_transaction_timeout * 1e6)
    idle_us = int(pool.client_idle_timeout * 1e6)
    notify_us = int(pool.query_wait_notify * 1e6)
    for connection in list(connections):
        session = connection.session
        if session is not None:
            _look_at(session, query_us, transaction_us, idle_us, notify_us, now_us)
            for database in _needed(session, now_us):
                vacate(database)
            if down and session.phase == BUSY:
                # A machine that hangs or is gone ends no connection.
                link = session.link
                if link is not None and link.node in down:
                    session.leave_node()


def _look_at(
    session: Session,
    query_us: int,
    transaction_us: int,
    idle_us: int,
    notify_us: int,
    now_us: int,
) -> None:
    if session.phase == BUSY:
        # Who has been at it for so long is looked at like all others.
        session.unfold()
    exchange = session.exchange
    if session.phase == BUSY and exchange is not None:
        if _waits_for_client(exchange):
            # A pipeline without its Sync holds a server connection as a transaction does.
            if transaction_us and now_us - session.idle_since_us > transaction_us:
                session.fatal(_idle_in_transaction())
        elif query_us and now_us - exchange.started_us > query_us:
            session.time_out_query()
            if now_us - exchange.started_us > query_us + CANCEL_GRACE_US:
                session.fatal(_not_cancelled())
        return
    since_us = session.waiting_since_us
    if since_us and notify_us and now_us - since_us > notify_us:
        session.notify_waiting()
        return
    if session.phase != IDLE or exchange is not None:
        return
    idle_for_us = now_us - session.idle_since_us
    if session.status != tags.STATUS_IDLE:
        if transaction_us and idle_for_us > transaction_us:
            session.fatal(_idle_in_transaction())
    elif idle_us and idle_for_us > idle_us:
        session.fatal(
            Refusal(
                "57P05",
                "terminating connection due to idle-session timeout",
                hint="The limit is pool.client_idle_timeout.",
            )
        )


def _needed(session: Session, now_us: int) -> tuple[str, ...]:
    """The databases that a statement waits for, because connections to them rest in the pools."""
    exchange = session.exchange
    if exchange is None or not exchange.databases or session.phase != BUSY:
        return ()
    is_time = VACATE_AFTER_US < now_us - exchange.started_us < VACATE_UNTIL_US
    return exchange.databases if is_time else ()


def _waits_for_client(exchange: Exchange) -> bool:
    """Whether all that the client has sent is answered, and its Sync still to come."""
    steps = exchange.steps
    return (
        exchange.is_open
        and not exchange.copy_in
        and steps is not None
        and exchange.at >= len(steps)
    )


def _not_cancelled() -> Refusal:
    return Refusal(
        "57014",
        "canceling statement due to query timeout",
        detail="The server did not end it when it was asked to.",
        hint="The limit is pool.query_timeout.",
    )


def _idle_in_transaction() -> Refusal:
    return Refusal(
        "25P03",
        "terminating connection due to idle-in-transaction timeout",
        hint="The limit is pool.idle_transaction_timeout.",
    )
