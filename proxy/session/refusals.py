"""
What clients are told: by PostgreSQL, of messages whose fields do not fit, of names that are taken or
unknown, of a cancel; by the proxy, of what it cannot do for them.
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


def misread(node: str) -> Refusal:
    """A server reads texts in another way than they were read here, when they were judged."""
    return Refusal(
        "58000",
        f'node "{node}" reads SQL texts in another way than the nodes before it',
        detail="standard_conforming_strings or client_encoding have another default there.",
        hint="Give all nodes the same defaults; this session's texts are judged anew from now on.",
    )


def no_block() -> Refusal:
    """A transaction block where each statement may go to another server connection."""
    return Refusal(
        "08P01",
        "transaction blocks are not allowed in statement pooling mode",
        hint="Use pool mode transaction for this database.",
    )


def changed_too_late() -> Refusal:
    """A plugin wants another text where none can be put in its place any more."""
    return Refusal(
        "0A000",
        "a plugin rewrites this statement, which SQL EXECUTE cannot take any more",
        hint="Prepare the statement again, or use the protocol's own prepared statements.",
    )


def not_in_copy(tag: int) -> Refusal:
    """A message that may not follow a COPY FROM STDIN before its CopyDone."""
    return malformed(f"unexpected message type 0x{tag:02X} during COPY from stdin")


def synchronization_lost() -> Refusal:
    """How PostgreSQL ends a connection after such a message."""
    return malformed("terminating connection because protocol synchronization was lost")
