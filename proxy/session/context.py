"""
Who a client is: what stays the same from its login to its end, as hooks and logs see it.
"""

from typing import Final, final

from proxy.session.clearance import Clearance
from proxy.sql.statement import StatementFacts

NO_CLEARANCES: Final[dict[StatementFacts, Clearance]] = {}
"""Of clients that no statement was judged for yet; nothing is ever put into it."""


@final
class ClientContext:
    """
    One client's identity and circumstances.

    client_id       unique in this proxy for the connection, e.g. "w0-17"
    user, database  what the client asked for in its startup packet
    identity        who it is to the hooks: the user, or what an `authenticate` hook said
    branch          database branch it asked for with `headgate.branch`, else ""
    startup         the startup packet's parameters, decoded, `options` unfolded into settings
    user_id, tenant_id, roles, claims   what an `authenticate` hook said besides
    fragment        the JSON of `hook_context` after `request_id`, with what joins it to what is around
                    it; made by the hooks on first use and emptied (b"") by whoever changes a field,
                    e.g. on SET application_name
    clearances      what the hooks know of statements that need not be judged for it; of the plan with
                    the number cleared_by
    is_replication  it asked for a replication connection
    """

    __slots__ = (
        "application_name",
        "branch",
        "claims",
        "clearances",
        "cleared_by",
        "client_addr",
        "client_id",
        "connected_at",
        "database",
        "fragment",
        "identity",
        "is_replication",
        "is_tls",
        "roles",
        "startup",
        "tenant_id",
        "user",
        "user_id",
    )

    def __init__(self, client_id: str, client_addr: str, is_tls: bool, connected_at: float) -> None:
        self.client_id = client_id
        self.client_addr = client_addr
        self.is_tls = is_tls
        self.connected_at = connected_at
        self.user = ""
        self.database = ""
        self.identity = ""
        self.branch = ""
        self.application_name = ""
        self.user_id = ""
        self.tenant_id = ""
        self.roles: list[str] = []
        self.claims: dict[str, str] = {}
        self.startup: dict[str, str] = {}
        self.fragment = b""
        self.cleared_by = 0
        self.clearances = NO_CLEARANCES
        self.is_replication = False

    @property
    def shown_addr(self) -> str:
        """Its address for people and plugins; a Unix socket has none."""
        return self.client_addr or "[local]"
