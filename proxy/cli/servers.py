"""
Ask each node who and how it is, for `headgate check --connect`.

Uses asyncpg and the health monitor's login, within `pool.connect_timeout`. Nothing is changed on a
server. Texts of a server's errors are shown, secrets never.
"""

import asyncio
import ssl

import asyncpg  # type: ignore[import-untyped]

from proxy.cli.check import ADVICE, FAILED, OK, Line
from proxy.settings.logins import monitor_login
from proxy.settings.model import Node, NodeTls, Settings
from proxy.settings.values import format_size

_QUERY = """
    SELECT pg_catalog.current_setting('server_version') AS version,
           pg_catalog.pg_is_in_recovery() AS is_standby,
           CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                ELSE pg_catalog.pg_current_wal_lsn() END - '0/0'::pg_catalog.pg_lsn AS position
"""


class _Answer:
    """What one node said, or why it did not."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.problem = ""
        self.version = ""
        self.is_standby = False
        self.position_bytes = 0


async def ask_servers(settings: Settings) -> list[Line]:
    """Ask all nodes at once; a line for each, in the order of the file."""
    answers = await asyncio.gather(*(_ask(node, settings) for node in settings.node))
    positions = [a.position_bytes for a in answers if not a.problem and not a.is_standby]
    lines = [_line(answer, max(positions, default=0), settings) for answer in answers]
    if not positions and not any(answer.problem for answer in answers):
        lines.append(Line("nodes", FAILED, "none of them is a primary: writes have nowhere to go"))
    return lines


async def _ask(node: Node, settings: Settings) -> _Answer:
    answer = _Answer(node)
    user, password = monitor_login(settings)
    try:
        async with asyncio.timeout(settings.pool.connect_timeout):
            connection = await asyncpg.connect(
                host=node.host,
                port=node.port,
                user=user,
                password=str(password) or None,
                database=settings.monitor.database,
                ssl=tls_of(node.tls),
                direct_tls=node.tls.negotiation == "direct",
                statement_cache_size=0,
                server_settings={"application_name": "headgate check"},
            )
            try:
                row = await connection.fetchrow(_QUERY)
                answer.version = row["version"]
                answer.is_standby = row["is_standby"]
                answer.position_bytes = int(row["position"] or 0)
            finally:
                connection.terminate()
    except TimeoutError:
        answer.problem = f"no answer within {settings.pool.connect_timeout:g} s"
    except asyncpg.PostgresError as error:
        answer.problem = f"user {user!r}: {error.sqlstate} {error}"
    except (OSError, asyncpg.InterfaceError, ssl.SSLError) as error:
        answer.problem = str(error) or type(error).__name__
    return answer


def _line(answer: _Answer, primary_bytes: int, settings: Settings) -> Line:
    node = answer.node
    subject = f"node {node.name}"
    place = f"{node.host}:{node.port}"
    if answer.problem:
        return Line(subject, FAILED, f"{place}: {answer.problem}")
    role = "standby" if answer.is_standby else "primary"
    text = f"{place}: PostgreSQL {answer.version}, {role}"
    if node.role not in ("auto", role):
        return Line(subject, FAILED, f"{text}, but the file says {node.role}")
    if answer.is_standby and primary_bytes:
        lag_bytes = max(0, primary_bytes - answer.position_bytes)
        text += f", {format_size(lag_bytes)} behind"
        if 0 < settings.routing.max_lag < lag_bytes:
            return Line(subject, ADVICE, f"{text}: above routing.max_lag, so it serves no reads")
    return Line(subject, OK, text)


def tls_of(tls: NodeTls) -> ssl.SSLContext | str | bool:
    """What asyncpg wants to hear for a `[node.tls]`."""
    if tls.mode == "disable":
        return False
    if tls.mode == "prefer" and tls.cert is None:
        return "prefer"
    context = ssl.create_default_context(cafile=tls.ca)
    verifies = tls.mode.startswith("verify-") or (tls.mode == "require" and tls.ca is not None)
    context.check_hostname = tls.mode == "verify-full"
    context.verify_mode = ssl.CERT_REQUIRED if verifies else ssl.CERT_NONE
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key)
    return context
