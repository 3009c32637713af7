"""
Message type bytes and numbers of the protocol, named as in PostgreSQL's libpq/protocol.h.

The same letter means different things in the two directions (C D E H S), so it has two names.
"""

from typing import Final

# What a frontend sends.
BIND: Final = 66  # B
CLOSE: Final = 67  # C
DESCRIBE: Final = 68  # D
EXECUTE: Final = 69  # E
FUNCTION_CALL: Final = 70  # F
FLUSH: Final = 72  # H
PARSE: Final = 80  # P
QUERY: Final = 81  # Q
SYNC: Final = 83  # S
TERMINATE: Final = 88  # X
COPY_FAIL: Final = 102  # f
PASSWORD: Final = 112  # p: PasswordMessage, SASLInitialResponse, SASLResponse, GSSResponse

# What a backend sends.
PARSE_COMPLETE: Final = 49  # 1
BIND_COMPLETE: Final = 50  # 2
CLOSE_COMPLETE: Final = 51  # 3
NOTIFICATION_RESPONSE: Final = 65  # A
COMMAND_COMPLETE: Final = 67  # C
DATA_ROW: Final = 68  # D
ERROR_RESPONSE: Final = 69  # E
COPY_IN_RESPONSE: Final = 71  # G
COPY_OUT_RESPONSE: Final = 72  # H
EMPTY_QUERY_RESPONSE: Final = 73  # I
BACKEND_KEY_DATA: Final = 75  # K
NOTICE_RESPONSE: Final = 78  # N
AUTHENTICATION: Final = 82  # R
PARAMETER_STATUS: Final = 83  # S
ROW_DESCRIPTION: Final = 84  # T
FUNCTION_CALL_RESPONSE: Final = 86  # V
COPY_BOTH_RESPONSE: Final = 87  # W
READY_FOR_QUERY: Final = 90  # Z
NO_DATA: Final = 110  # n
PORTAL_SUSPENDED: Final = 115  # s
PARAMETER_DESCRIPTION: Final = 116  # t
NEGOTIATE_PROTOCOL_VERSION: Final = 118  # v

# Both directions
COPY_DATA: Final = 100  # d
COPY_DONE: Final = 99  # c

# Transaction status of ReadyForQuery
STATUS_IDLE: Final = 73  # I
STATUS_IN_TRANSACTION: Final = 84  # T
STATUS_FAILED: Final = 69  # E

# Request codes in place of a protocol version in an untyped first packet
CANCEL_REQUEST: Final = 80877102
SSL_REQUEST: Final = 80877103
GSSENC_REQUEST: Final = 80877104
PROTOCOL_3_0: Final = 196608
PROTOCOL_3_2: Final = 196610

MAX_STARTUP_BYTES: Final = 10_000
"""Longest startup packet that PostgreSQL takes (MAX_STARTUP_PACKET_LENGTH)."""
