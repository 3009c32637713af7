"""
A conversation with a Session, by hand: what the client sends, what the server answers, who gets what.

Real session, real links, real classifier; the wires and the broker record. No sockets, no clock.
"""

from collections.abc import Callable

from proxy.errors import Refusal
from proxy.hooks.points import EMPTY_CHAINS
from proxy.observe.counters import Counters
from proxy.protocol import backend, frontend, tags
from proxy.routing.route import Route
from proxy.session.clearance import Clearance
from proxy.session.context import ClientContext
from proxy.session.inspection import VERDICT_ALLOW, Inspection
from proxy.session.link import BackendLink
from proxy.session.ports import Broker, Classifier, Clock, Gate, Waiter, Wire
from proxy.session.session import Session
from proxy.session.tuning import POOL_TRANSACTION, SessionTuning, Welcomes
from proxy.sql.analyse import with_text
from proxy.sql.classify import PgClassifier
from proxy.sql.statement import StatementFacts, TextFacts

CLASSIFIER = PgClassifier()
READY = backend.ready_for_query(tags.STATUS_IDLE)
READY_T = backend.ready_for_query(tags.STATUS_IN_TRANSACTION)
READY_E = backend.ready_for_query(tags.STATUS_FAILED)


class Slow(Classifier):
    """The classifier, but no statement goes the express way."""

    def facts(self, text: bytes) -> TextFacts:
        return _slowed(CLASSIFIER.facts(text))

    def known(self, text: bytes, is_parsed: bool) -> TextFacts | None:
        return None

    def exact(self, text: bytes) -> TextFacts:
        return _slowed(CLASSIFIER.exact(text))

    def unknown(self, text: bytes) -> TextFacts:
        return CLASSIFIER.unknown(text)


def _slowed(facts: TextFacts) -> TextFacts:
    copy = TextFacts(facts.statements)
    copy.is_express = False
    return copy


class FakeWire(Wire):
    def __init__(self) -> None:
        self.written = b""
        self.is_paused = False
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.written += data

    def take(self) -> bytes:
        data, self.written = self.written, b""
        return data

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True


class FakeClock(Clock):
    def __init__(self) -> None:
        self.time_us = 1_000_000

    def now_us(self) -> int:
        self.time_us += 1
        return self.time_us


class FakeBroker(Broker):
    """
    One link at a time; `free` are granted at once, else the waiter is kept.

    is_empty  the free ones are not for this client
    """

    def __init__(self) -> None:
        self.is_empty = False
        self.free: list[BackendLink] = []
        self.routes: list[Route] = []
        self.waiting: Waiter | None = None
        self.discarded: list[tuple[BackendLink, str]] = []
        self.cancelled: list[BackendLink] = []
        self.demoted_links: list[BackendLink] = []
        self.crashed_links: list[BackendLink] = []
        self.losing_links: list[BackendLink] = []

    def acquire(self, waiter: Waiter, database: str, user: str, route: Route) -> BackendLink | None:
        self.routes.append(route)
        while self.free and not self.is_empty:
            link = self.free.pop()
            if not link.is_closed:
                return link
        self.waiting = waiter
        return None

    def withdraw(self, waiter: Waiter) -> None:
        if self.waiting is waiter:
            self.waiting = None

    def release(self, link: BackendLink) -> None:
        assert link.owes_nothing()
        assert link.status == tags.STATUS_IDLE
        assert link.user_session is None
        link.turn += 1
        self.free.append(link)

    def regain(self, link: BackendLink) -> bool:
        if link not in self.free:
            return False
        self.free.remove(link)
        return True

    def spare(self, link: BackendLink) -> None:
        if link in self.free:
            self.free.remove(link)
            self.free.insert(0, link)

    def discard(self, link: BackendLink, reason: str) -> None:
        self.discarded.append((link, reason))
        link.close(reason)

    def cancel(self, link: BackendLink) -> None:
        self.cancelled.append(link)

    def demoted(self, link: BackendLink) -> None:
        self.demoted_links.append(link)

    def is_losing(self, link: BackendLink) -> bool:
        return link in self.losing_links

    def crashed(self, link: BackendLink) -> None:
        self.crashed_links.append(link)

    def grant(self, link: BackendLink) -> None:
        waiter, self.waiting = self.waiting, None
        assert waiter is not None
        waiter.on_backend(link)

    def refuse(self, refusal: Refusal) -> None:
        waiter, self.waiting = self.waiting, None
        assert waiter is not None
        waiter.on_no_backend(refusal)


Rule = Callable[[Inspection], None]


class ScriptedGate(Gate):
    """
    Verdicts from a function of the inspection; records what it was asked.

    rules   by a part of the statement's text, what `judge` does; `routings` the same for `route`
    slow    parts of texts for which `judge` takes its time, until `decide`; `slow_routes` for `route`
    """

    def __init__(self) -> None:
        self.judges = False
        self.routes = False
        self.observes = False
        self.wants_parameters = False
        self.captures = False
        self.caches = False
        self.clears = False
        self.judges_at_once = False
        self.seen: list[Inspection] = []
        self.done: list[Inspection] = []
        self.results: list[bytes | None] = []
        self.rules: dict[bytes, Rule] = {}
        self.routings: dict[bytes, Rule] = {}
        self.slow: list[bytes] = []
        self.slow_routes: list[bytes] = []
        self.pending: Inspection | None = None
        self._late: dict[bytes, Rule] = {}

    def clearance(self, facts: StatementFacts, client: ClientContext) -> Clearance | None:
        return None

    def judge(self, inspection: Inspection) -> bool:
        self.seen.append(inspection)
        inspection.chains = EMPTY_CHAINS
        if inspection.raw_text:
            # As the real gate: facts may be those of another text that differs in constants only.
            inspection.facts = with_text(inspection.facts, inspection.raw_text)
            inspection.raw_text = b""
        return self._follow(self.rules, self.slow, inspection)

    def judge_at_once(
        self,
        facts: StatementFacts,
        raw_text: bytes,
        client: ClientContext,
        is_extended: bool,
        phase: int,
    ) -> Inspection | None:
        inspection = Inspection(facts, client, is_extended, phase, False, None)
        inspection.raw_text = raw_text
        assert self.judge(inspection), "who judges at once takes no time"
        is_odd = inspection.verdict != VERDICT_ALLOW or inspection.is_rewritten
        return inspection if is_odd else None

    def route(self, inspection: Inspection) -> bool:
        return self._follow(self.routings, self.slow_routes, inspection)

    def _follow(self, rules: dict[bytes, Rule], slow: list[bytes], inspection: Inspection) -> bool:
        text = inspection.raw_text or inspection.facts.text
        if any(needle in text for needle in slow):
            self.pending = inspection
            self._late = rules
            return False
        self._apply(rules, inspection)
        return True

    def _apply(self, rules: dict[bytes, Rule], inspection: Inspection) -> None:
        text = inspection.raw_text or inspection.facts.text
        for needle, rule in rules.items():
            if needle in text:
                rule(inspection)

    def decide(self) -> None:
        """The plugin that took its time answers."""
        inspection, self.pending = self.pending, None
        assert inspection is not None
        self._apply(self._late, inspection)
        waiter = inspection.waiter
        assert isinstance(waiter, Waiter)
        waiter.on_judged(inspection)

    def finished(self, inspection: Inspection, result: bytes | None) -> None:
        assert inspection.outcome is not None or not self.observes
        self.done.append(inspection)
        self.results.append(result)


REPORTED = {
    b"server_version": b"18.0",
    b"client_encoding": b"UTF8",
    b"standard_conforming_strings": b"on",
    b"application_name": b"",
}


class Playbook:
    """
    A session that has been greeted (or shall be by the test), with idle server connections.

    What was seen before would depend on the order of tests: so nothing goes the express way, but with
    the `CLASSIFIER` itself.
    """

    def __init__(
        self,
        mode: int = POOL_TRANSACTION,
        settings: dict[str, str] | None = None,
        max_prepared: int = 100,
        links: int = 1,
        is_greeted: bool = True,
        classifier: Classifier | None = None,
        max_message_bytes: int = 1 << 24,
        gate: "ScriptedGate | None" = None,
    ) -> None:
        self.client = FakeWire()
        self.broker = FakeBroker()
        self.gate = gate if gate is not None else ScriptedGate()
        self.clock = FakeClock()
        self.counters = Counters()
        context = ClientContext("c1", "127.0.0.1", False, 0.0)
        context.user = context.identity = "alice"
        context.database = "app"
        self.links = [self.new_link(number) for number in range(links)]
        self.broker.free = list(reversed(self.links))
        self.welcomes = Welcomes(10)
        self.session = Session(
            context,
            self.client,
            self.gate,
            self.broker,
            classifier if classifier is not None else Slow(),
            self.clock,
            self.counters,
            SessionTuning(mode, max_message_bytes, max_prepared, 1 << 20),
            self.welcomes,
            settings or {},
        )
        if not is_greeted:
            return
        self.welcomes.put("app", "alice", self.session.state.key, dict(REPORTED))
        self.session.start()
        greeting = self.client.take()
        assert greeting.endswith(READY)

    @staticmethod
    def new_link(number: int = 0) -> BackendLink:
        return BackendLink(
            FakeWire(), "app", "alice", f"pg{number}", 100 + number, b"abcd", dict(REPORTED), 0.0
        )

    @property
    def link(self) -> BackendLink:
        return self.links[0]

    @property
    def server(self) -> FakeWire:
        return self.wire_of(0)

    def wire_of(self, number: int) -> FakeWire:
        wire = self.links[number].wire
        assert isinstance(wire, FakeWire)
        return wire

    def f(self, data: bytes) -> bytes:
        """The client sends; what the (first) server got for it."""
        self.session.receive_from_frontend(data)
        return self.server.take()

    def b(self, data: bytes) -> bytes:
        """The (first) server sends; what the client got for it."""
        self.from_server(0, data)
        return self.client.take()

    def from_server(self, number: int, data: bytes) -> None:
        """A server sends; as on a socket, nothing comes in from one that is closed."""
        link = self.links[number]
        if not link.is_closed:
            link.receive_from_backend(data)

    def looked_at(self, *rows: bytes) -> None:
        """The proxy looks at what a transaction has left behind; these rows are the answer."""
        assert b"pg_catalog.pg_settings" in self.server.take()
        assert self.b(b"".join(rows) + complete(b"SELECT 1") + READY) == b""


def parse(name: bytes, sql: bytes) -> bytes:
    return frontend.Parse(name, sql, []).encode()


def bind(name: bytes, portal: bytes = b"", formats: list[int] | None = None) -> bytes:
    return frontend.Bind(portal, name, [], [], formats or []).encode()


def execute(portal: bytes = b"") -> bytes:
    return frontend.Execute(portal, 0).encode()


def describe(name: bytes = b"", kind: int = frontend.STATEMENT) -> bytes:
    return frontend.Describe(kind, name).encode()


def close(name: bytes = b"", kind: int = frontend.STATEMENT) -> bytes:
    return frontend.Close(kind, name).encode()


def query(sql: bytes) -> bytes:
    return frontend.encode_query(sql)


def complete(tag: bytes) -> bytes:
    return backend.command_complete(tag)


def error(sqlstate: str, message: str) -> bytes:
    return backend.error_response(Refusal(sqlstate, message))


def row(*values: bytes | None) -> bytes:
    return backend.data_row(list(values))


def fatal(sqlstate: str, message: str) -> bytes:
    return backend.error_response(Refusal(sqlstate, message, severity="FATAL"))
