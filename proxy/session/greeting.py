"""
What a client is told at its login besides what the server reports.

A login is greeted from what an earlier one was told (`tuning.Welcomes`), most often without a
server: what PostgreSQL says of the startup packet itself has to be said here.
"""

from typing import Final

from proxy.errors import Refusal
from proxy.protocol import backend

MAX_NAME_BYTES: Final = 63
"""NAMEDATALEN - 1: what PostgreSQL keeps of a name."""


def name_notice(startup: dict[str, str]) -> bytes:
    """
    NoticeResponse that an application_name was too long, as PostgreSQL's truncate_identifier; b""
    when it was not, or its client wants no notices.

    Settings are made in the packet's order: client_min_messages behind it comes too late.
    """
    is_wanted = True
    found = b""
    for name in startup:
        lowered = name.lower()
        value = startup[name]
        if lowered == "client_min_messages":
            is_wanted = value.lower() not in ("warning", "error")
        elif lowered == "application_name":
            data = value.encode()
            # What is not UTF-8 is shown longer than it is (`\xe9`): too few notices, none too many.
            if is_wanted and len(data) > MAX_NAME_BYTES and "\\x" not in value:
                kept = data[:MAX_NAME_BYTES].decode("utf-8", "ignore")
                found = backend.notice_response(
                    Refusal(
                        "42622",
                        f'identifier "{value}" will be truncated to "{kept}"',
                        severity="NOTICE",
                        routine="truncate_identifier",
                    )
                )
    return found
