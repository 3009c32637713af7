"""
What can go wrong, one class for each thing that a caller can do about it.

    HeadgateError
      ProtocolViolation   the peer broke the protocol: tell it, close it
        NotThisProtocol   it never spoke it: close it without a word
      Refused             tell the client, keep going
      BackendLost         the server connection is gone
      SettingsError       the configuration is wrong: say where, exit 2
      PluginFailed        a plugin's call or load failed; the hook's failure rule applies

`Refusal` is not an exception: it is the content of an ErrorResponse, passed by value on the
hot path, where raising would cost more than the whole statement.
"""

from typing import final


@final
class Refusal:
    """
    What an ErrorResponse says: severity, SQLSTATE and texts, without internals.

    routine  where PostgreSQL raises it, for the few errors that drivers tell apart by that
    """

    __slots__ = ("detail", "hint", "message", "routine", "severity", "sqlstate")

    def __init__(
        self,
        sqlstate: str,
        message: str,
        detail: str = "",
        hint: str = "",
        severity: str = "ERROR",
        routine: str = "",
    ) -> None:
        self.sqlstate = sqlstate
        self.message = message
        self.detail = detail
        self.hint = hint
        self.severity = severity
        self.routine = routine

    def __repr__(self) -> str:
        return f"Refusal({self.severity} {self.sqlstate}: {self.message})"


class HeadgateError(Exception):
    """Base of all errors that Headgate raises on purpose."""


class ProtocolViolation(HeadgateError):
    """A peer sent what the protocol forbids. Fatal for that peer, and for it only."""

    def __init__(self, message: str, sqlstate: str = "08P01") -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate


class NotThisProtocol(ProtocolViolation):
    """
    A client that left while it was connecting, or a cancel request that can be none: nobody waits for
    an answer, and PostgreSQL (ProcessStartupPacket) tells only its log.
    """


class Refused(HeadgateError):
    """A request is refused; `refusal` is what the client is told."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class BackendLost(HeadgateError):
    """A server connection could not be made or has ended; `refusal` is what a client is told."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class PluginFailed(HeadgateError):
    """A plugin could not be loaded, or a call of it failed; `cause` is a label of the metrics."""

    def __init__(self, plugin: str, cause: str, message: str) -> None:
        super().__init__(f"plugin {plugin!r}: {message}")
        self.plugin = plugin
        self.cause = cause
        self.message = message


class SettingsError(HeadgateError):
    """The configuration is wrong. `problems` has one line for each: file, key, reason, expected."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
