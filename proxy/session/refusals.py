"""
What PostgreSQL says of messages whose fields do not fit, of names that are taken or unknown, and to
who has cancelled.
"""

from proxy.errors import Refusal


def malformed(problem: str) -> Refusal:
    """What PostgreSQL answers to a message whose fields do not fit its length."""
    return Refusal("08P01", problem)


def no_string() -> Refusal:
    """A String without its end."""
    return malformed("invalid string in message")


def too_short() -> Refusal:
    """A message that ends before its last field."""
    return malformed("insufficient data left in message")


def too_long() -> Refusal:
    """A message that goes on behind its last field."""
    return malformed("invalid message format")


def unknown_statement(name: bytes) -> Refusal:
    """What PostgreSQL answers to a statement name that it does not know."""
    if not name:
        return Refusal("26000", "unnamed prepared statement does not exist")
    shown = name.decode("utf-8", "replace")
    return Refusal("26000", f'prepared statement "{shown}" does not exist')


def statement_exists(name: bytes) -> Refusal:
    """What PostgreSQL answers to a Parse of a name that is taken."""
    shown = name.decode("utf-8", "replace")
    return Refusal("42P05", f'prepared statement "{shown}" already exists')


def canceled() -> Refusal:
    """What PostgreSQL answers to a statement that a CancelRequest ended."""
    return Refusal("57014", "canceling statement due to user request")
