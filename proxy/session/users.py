"""
Who is told what a server connection says: the session that it serves, and queries of the proxy's own.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from proxy.errors import Refusal
from proxy.session.exchange import Exchange, Message
from proxy.session.ports import Waiter

if TYPE_CHECKING:
    from proxy.session.link import BackendLink


@mypyc_attr(allow_interpreted_subclasses=True)
class InternalQuery(ABC):
    """A query of the proxy's own on a link: told of its rows, its error and its end."""

    @abstractmethod
    def on_row(self, values: list[bytes | None]) -> None:
        """One DataRow."""

    @abstractmethod
    def on_columns(self, body: bytes) -> None:
        """A RowDescription, or NoData (b"")."""

    @abstractmethod
    def on_error(self, fields: dict[str, str]) -> None:
        """An ErrorResponse; its fields by their letters."""

    @abstractmethod
    def on_done(self, link: "BackendLink", status: int) -> None:
        """ReadyForQuery. Called exactly once, unless the link is lost first."""


@mypyc_attr(allow_interpreted_subclasses=True)
class LinkUser(Waiter):
    """The session that a link serves: what the link tells it."""

    @abstractmethod
    def on_reply(self, data: bytes) -> None:
        """Bytes for the client."""

    @abstractmethod
    def on_plain_reply(self, link: "BackendLink", data: bytes) -> None:
        """All of the reply to a plain statement, which has gone well."""

    @abstractmethod
    def unfold(self) -> None:
        """The reply is not so plain: have an exchange on the link for it."""

    @abstractmethod
    def on_error_reply(self, link: "BackendLink", frame: bytes, body: bytes) -> bytes:
        """An ErrorResponse of the exchange: what the client gets for it, b"" for nothing."""

    @abstractmethod
    def on_completion(self, tag: int, frame: bytes) -> None:
        """CommandComplete, EmptyQueryResponse or PortalSuspended while `watches` is set."""

    @abstractmethod
    def on_parameter(self, name: bytes, value: bytes, is_internal: bool) -> bool:
        """A ParameterStatus; True: the client does not know this value yet."""

    @abstractmethod
    def on_copy_in(self, link: "BackendLink") -> None:
        """The server waits for CopyData."""

    @abstractmethod
    def on_prepared(self, key: bytes) -> None:
        """The server has prepared the statement with this key."""

    @abstractmethod
    def on_described(self, message: Message, body: bytes) -> None:
        """The RowDescription of a statement, or NoData (b"")."""

    @abstractmethod
    def on_copy_failed(self) -> None:
        """The COPY that the client was sending data for has failed."""

    @abstractmethod
    def on_steps_done(self) -> None:
        """Every reply owed so far to an exchange that is still open has come."""

    @abstractmethod
    def on_backend_full(self) -> None:
        """The server takes the client's data too slowly."""

    @abstractmethod
    def on_backend_drained(self) -> None:
        """The server has caught up."""

    @abstractmethod
    def on_exchange_done(self, link: "BackendLink", exchange: Exchange, status: int) -> None:
        """The exchange's ReadyForQuery came and was passed on."""

    @abstractmethod
    def on_link_lost(self, link: "BackendLink", refusal: Refusal) -> None:
        """The server connection has ended while this session had it."""
