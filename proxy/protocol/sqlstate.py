"""
The SQLSTATEs that Headgate itself gives, with the names of PostgreSQL's errcodes.txt.

What a server answers passes through and needs no name here.
"""

from typing import Final

SUCCESSFUL_COMPLETION: Final = "00000"

# Class 08: connection exception
CONNECTION_EXCEPTION: Final = "08000"
SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION: Final = "08001"
CONNECTION_DOES_NOT_EXIST: Final = "08003"
SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION: Final = "08004"
CONNECTION_FAILURE: Final = "08006"
PROTOCOL_VIOLATION: Final = "08P01"

FEATURE_NOT_SUPPORTED: Final = "0A000"

# Class 22: data exception
INVALID_PARAMETER_VALUE: Final = "22023"
CHARACTER_NOT_IN_REPERTOIRE: Final = "22021"

# Class 25: invalid transaction state
ACTIVE_SQL_TRANSACTION: Final = "25001"
READ_ONLY_SQL_TRANSACTION: Final = "25006"
NO_ACTIVE_SQL_TRANSACTION: Final = "25P01"
IN_FAILED_SQL_TRANSACTION: Final = "25P02"
IDLE_IN_TRANSACTION_SESSION_TIMEOUT: Final = "25P03"
TRANSACTION_TIMEOUT: Final = "25P04"

INVALID_SQL_STATEMENT_NAME: Final = "26000"

# Class 28: invalid authorization specification
INVALID_AUTHORIZATION_SPECIFICATION: Final = "28000"
INVALID_PASSWORD: Final = "28P01"

INVALID_CURSOR_NAME: Final = "34000"
INVALID_CATALOG_NAME: Final = "3D000"

# Class 42: syntax error or access rule violation
SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION: Final = "42000"
"""A plugin's block."""
INSUFFICIENT_PRIVILEGE: Final = "42501"
"""A plugin's deny."""
SYNTAX_ERROR: Final = "42601"
UNDEFINED_OBJECT: Final = "42704"
DUPLICATE_CURSOR: Final = "42P03"
DUPLICATE_PSTATEMENT: Final = "42P05"

# Class 53: insufficient resources
INSUFFICIENT_RESOURCES: Final = "53000"
OUT_OF_MEMORY: Final = "53200"
TOO_MANY_CONNECTIONS: Final = "53300"
CONFIGURATION_LIMIT_EXCEEDED: Final = "53400"

# Class 54: program limit exceeded
PROGRAM_LIMIT_EXCEEDED: Final = "54000"

# Class 55: object not in prerequisite state
OBJECT_NOT_IN_PREREQUISITE_STATE: Final = "55000"
CANT_CHANGE_RUNTIME_PARAM: Final = "55P02"

# Class 57: operator intervention
OPERATOR_INTERVENTION: Final = "57000"
QUERY_CANCELED: Final = "57014"
ADMIN_SHUTDOWN: Final = "57P01"
CRASH_SHUTDOWN: Final = "57P02"
CANNOT_CONNECT_NOW: Final = "57P03"
IDLE_SESSION_TIMEOUT: Final = "57P05"

# Class 58: system error (outside PostgreSQL itself)
SYSTEM_ERROR: Final = "58000"

INTERNAL_ERROR: Final = "XX000"
