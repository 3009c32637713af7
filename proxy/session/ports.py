"""
What the session core asks of the world: abstract classes that the shell and the hooks implement.

The core imports nothing above itself; whoever makes a Session passes these in. They are ABCs and
not typing.Protocols because calls through an ABC stay cheap when compiled.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from proxy.errors import Refusal
from proxy.routing.route import Route
from proxy.session.clearance import Clearance
from proxy.session.context import ClientContext
from proxy.session.inspection import Inspection
from proxy.sql.statement import StatementFacts, TextFacts

if TYPE_CHECKING:
    from proxy.session.link import BackendLink
    from proxy.session.tuning import CancelKey


@mypyc_attr(allow_interpreted_subclasses=True)
class Wire(ABC):
    """The sending side of one socket. Never blocks: what cannot be sent yet is buffered below."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send bytes, in order."""

    @abstractmethod
    def pause_reading(self) -> None:
        """Stop receiving from this peer (idempotent)."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Receive again (idempotent)."""

    @abstractmethod
    def close(self) -> None:
        """Close once everything written has been sent (idempotent)."""

    @abstractmethod
    def abort(self) -> None:
        """Close at once, dropping what was not sent (idempotent)."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Waiter(ABC):
    """Whoever waits for a verdict or for a server connection: the session."""

    @abstractmethod
    def on_judged(self, inspection: Inspection) -> None:
        """The gate has decided on an inspection for which it had answered False."""

    @abstractmethod
    def on_backend(self, link: "BackendLink") -> None:
        """The broker grants a server connection; it is the waiter's from now on."""

    @abstractmethod
    def on_no_backend(self, refusal: Refusal) -> None:
        """The broker gives up: time-out, no node, login refused by the server."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Gate(ABC):
    """
    The hooks, as the session sees them.

    `judges` is True while any hook that sees statements is subscribed; `wants_parameters` while a
    subscriber is granted query.params; `observes` while post_query has a subscriber. The session
    reads these plain attributes before it makes anything: no plugin, no cost.
    """

    judges: bool
    routes: bool
    observes: bool
    wants_parameters: bool
    caches: bool  # cache_get is subscribed: executions are looked up, with their parameters
    captures: bool  # cache_set is subscribed: results named by cache_key are collected
    clears: bool  # some statements need not be judged at all: see `clearance`
    judges_at_once: bool  # nobody takes time, nor is asked or told anything but pre_query

    @abstractmethod
    def clearance(self, facts: StatementFacts, client: ClientContext) -> Clearance | None:
        """
        Whether the statement with these very facts, for this client, need not be judged: it is then
        sent on as it is, and `Clearance.use` counts it. Asked only while `clears` is True.
        """

    @abstractmethod
    def judge(self, inspection: Inspection) -> bool:
        """
        Run authorize, pre_query, rewrite, cache_get; fill in the verdict. True: decided now.
        False: a plugin takes its time on a worker thread; inspection.waiter.on_judged is called
        later, exactly once, from the event loop.
        """

    @abstractmethod
    def judge_at_once(
        self,
        facts: StatementFacts,
        raw_text: bytes,
        client: ClientContext,
        is_extended: bool,
        phase: int,
    ) -> Inspection | None:
        """
        As `judge`, for a statement outside of a transaction; only while `judges_at_once` is True. None:
        it passes as it is, and `finished` is not for it. Else the inspection, decided. `raw_text` is
        that of an Inspection.
        """

    @abstractmethod
    def route(self, inspection: Inspection) -> bool:
        """Run the route hook; set inspection.route, or VERDICT_REFUSE. Answers as `judge`."""

    @abstractmethod
    def finished(self, inspection: Inspection, result: bytes | None) -> None:
        """
        The statement is over, however it went; inspection.outcome is set if the gate observes.
        `result` is what the server sent for it when a cache_key asked for it and it fitted, else
        None. Exactly once for each inspection that was judged.
        """


@mypyc_attr(allow_interpreted_subclasses=True)
class Broker(ABC):
    """Nodes and pools, as the session sees them."""

    @abstractmethod
    def acquire(
        self, waiter: Waiter, database: str, user: str, route: Route
    ) -> "BackendLink | None":
        """
        A logged-in, clean server connection now, or None: then on_backend or on_no_backend is
        called later, exactly once unless `withdraw` comes first.
        """

    @abstractmethod
    def withdraw(self, waiter: Waiter) -> None:
        """The waiter has gone or no longer wants one (idempotent)."""

    @abstractmethod
    def release(self, link: "BackendLink") -> None:
        """Give back a connection that is idle, owes nothing and holds nothing of its client."""

    @abstractmethod
    def regain(self, link: "BackendLink") -> bool:
        """Take this very connection, which was given back; False: it does not rest, or has ended."""

    @abstractmethod
    def spare(self, link: "BackendLink") -> None:
        """A connection that was given back, and rests: others get it last."""

    @abstractmethod
    def discard(self, link: "BackendLink", reason: str) -> None:
        """Close a connection that cannot be given back; its place in the pool is free at once."""

    @abstractmethod
    def cancel(self, link: "BackendLink") -> None:
        """Send a CancelRequest for what this connection runs now (protocol rule 34)."""

    @abstractmethod
    def demoted(self, link: "BackendLink") -> None:
        """The node answered 25006 where a primary was expected: look at it again (rule 39)."""

    @abstractmethod
    def is_losing(self, link: "BackendLink") -> bool:
        """Whether other connections to its node were lost a moment ago: it may be down as a whole."""

    @abstractmethod
    def crashed(self, link: "BackendLink") -> None:
        """The server ends this connection, and all others to its node, for another one's crash."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Keys(ABC):
    """The cancel keys that clients were given."""

    @abstractmethod
    def rename(self, key: "CancelKey", process_id: int) -> "CancelKey":
        """
        The key as its client shall be told it: with the process id of the server connection that
        is the client's from its login to its end.
        """


@mypyc_attr(allow_interpreted_subclasses=True)
class Classifier(ABC):
    """SQL text to facts, behind a cache. Never raises, never slow beyond its size cap."""

    @abstractmethod
    def facts(self, text: bytes) -> TextFacts:
        """
        Facts on a Query or Parse text without NUL, in a sane encoding. The same text gives the same
        object while it is cached. `text` of the statements in it may differ from the argument in
        constants only: use `exact` where the very text counts.
        """

    @abstractmethod
    def known(self, text: bytes, is_parsed: bool) -> TextFacts | None:
        """
        As `facts`, if the text or one like it is in the cache; None for a text with a NUL. A text of a
        Parse (`is_parsed`) comes again as it is, one of a Query with other constants.
        """

    @abstractmethod
    def exact(self, text: bytes) -> TextFacts:
        """As `facts`, with the statements' text, head and normalized those of this very text."""

    @abstractmethod
    def unknown(self, text: bytes) -> TextFacts:
        """One statement of kind unknown with this text: what is not parsed on purpose (rule 37)."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Clock(ABC):
    """Time for the core: microseconds that only go forward."""

    @abstractmethod
    def now_us(self) -> int:
        """Microseconds since some fixed moment."""


@mypyc_attr(allow_interpreted_subclasses=True)
class OtherSession(ABC):
    """Whoever serves a client in place of a Session: the admin console."""

    @abstractmethod
    def receive_from_frontend(self, data: bytes) -> None:
        """Bytes from the client."""

    @abstractmethod
    def on_frontend_lost(self) -> None:
        """The client has gone."""

    @abstractmethod
    def drain(self) -> None:
        """Shut down: end now, or as soon as what it does is done."""

    @abstractmethod
    def fatal(self, refusal: Refusal) -> None:
        """Tell the client why, and end."""
