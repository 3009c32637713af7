"""
The envelopes that plugins get (plugins.md, 1.2).

An envelope is put together from parts that are JSON already: the statement's, made once per text
by the classifier, and the session's, made here once per session. Every field is there and true; a
field that a plugin lacks the permission for is absent. `answers` reads what comes back.
"""

from typing import Final

import msgspec

from proxy.hooks.points import Subscriber
from proxy.session.context import ClientContext
from proxy.session.inspection import PHASE_EXECUTE, Inspection, Outcome
from proxy.sql.analyse import rest_of_head
from proxy.sql.json_text import json_of_text
from proxy.sql.statement import StatementFacts

_encode = msgspec.json.encode


def json_of(value: object) -> bytes:
    """JSON of plain values; characters that UTF-8 cannot say become '?'."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _encode(_without_surrogates(value))


def _without_surrogates(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def attributes_of(client: ClientContext) -> dict[str, str]:
    """
    `hook_context.attributes`. Claims come first and the proxy's own facts last: no claim and no
    startup parameter can pass for the client's address or roles.
    """
    attributes = dict(client.claims)
    if client.user_id:
        attributes["user_id"] = client.user_id
    if client.tenant_id:
        attributes["tenant_id"] = client.tenant_id
    attributes["application_name"] = client.application_name
    attributes["client_addr"] = client.shown_addr
    attributes["tls"] = "true" if client.is_tls else "false"
    attributes["user"] = client.user
    attributes["roles"] = ",".join(client.roles)
    return attributes


def joined_fragment_of(client: ClientContext) -> bytes:
    """
    The JSON of `hook_context` behind the number of its request, to and with its closing brace and
    the comma behind that; kept.
    """
    if not client.fragment:
        fields = {
            "client_id": client.client_id,
            "identity": client.identity,
            "database": client.database,
            "branch": client.branch or None,
            "attributes": attributes_of(client),
        }
        client.fragment = b'",%b,' % json_of(fields)[1:]
    return client.fragment


def fragment_of(client: ClientContext) -> bytes:
    """The JSON of `hook_context` behind `request_id`, to and with its closing brace."""
    return joined_fragment_of(client)[2:-1]


def context_opening(prefix: bytes) -> bytes:
    """What stands between the statement's own fields and the number of its request."""
    return b',"hook_context":{"request_id":"' + prefix


def _tails() -> tuple[bytes, ...]:
    """Everything behind `fingerprint` that has eight forms; number: see `_tail_number`."""
    return tuple(
        b',"protocol":"%s","phase":"%s","in_transaction":%s' % (protocol, phase, in_transaction)
        for protocol in (b"simple", b"extended")
        for phase in (b"statement", b"execute")
        for in_transaction in (b"false", b"true")
    )


_TAILS: Final = _tails()
_ENDINGS: Final = [tail + b"}" for tail in _TAILS]


def _tail_number(is_extended: bool, phase: int, in_transaction: bool) -> int:
    return (
        (4 if is_extended else 0)
        + (2 if phase == PHASE_EXECUTE else 0)
        + (1 if in_transaction else 0)
    )


def _tail_of(inspection: Inspection) -> bytes:
    return _TAILS[_tail_number(inspection.is_extended, inspection.phase, inspection.in_transaction)]


def statement_envelope(
    inspection: Inspection, prefix: bytes, with_parameters: bool, with_roles: bool
) -> bytes:
    """
    The input of authorize, pre_query, rewrite, route and cache_get.

    `prefix` stands before the number of the request and makes it unique among processes.
    `parameters` is there only for a plugin that is granted query.params: null where the statement
    has none at this phase.
    """
    facts = inspection.facts
    client = inspection.client
    extras = b""
    if with_roles or with_parameters:
        extras = _extras(inspection, with_parameters, with_roles)
    # PERF: every statement of the simple protocol with other constants has a raw text when a plugin is
    # loaded. Its head is put together here, with no object made in between.
    opening, head, rest = b"", facts.head, b""
    if inspection.raw_text:
        opening = b'"query":'
        head = json_of_text(inspection.raw_text.decode())
        rest = rest_of_head(facts)
    return b'{%b%b%b,"hook_context":{"request_id":"%b%d%b%b%b%b}' % (
        opening,
        head,
        rest,
        prefix,
        inspection.request_id,
        client.fragment or joined_fragment_of(client),
        facts.tail,
        _tail_of(inspection),
        extras,
    )


def say_statement(
    subscriber: Subscriber,
    facts: StatementFacts,
    raw_text: bytes,
    client: ClientContext,
    context: bytes,
    number: int,
    is_extended: bool,
    phase: int,
) -> bytes | None:
    """
    Call with what `statement_envelope` makes of a statement outside of a transaction, in pieces.

    `raw_text` as in an Inspection, `context` is `context_opening`'s, `number` that of the request.
    Answers and raises what `Subscriber.say` does.
    """
    fragment = client.fragment or joined_fragment_of(client)
    ending = _ENDINGS[_tail_number(is_extended, phase, False)]
    if raw_text:
        rest = facts.head_rest or rest_of_head(facts)
        return subscriber.say(
            b'{"query":', raw_text, rest, context, number, fragment, facts.tail, ending
        )
    return subscriber.say(b"{", b"", facts.head, context, number, fragment, facts.tail, ending)


def _extras(inspection: Inspection, with_parameters: bool, with_roles: bool) -> bytes:
    extras = b""
    if with_roles:
        extras = b',"roles":' + json_of(inspection.client.roles)
    if with_parameters:
        extras += b',"parameters":' + json_of(_parameters_of(inspection))
    return extras


def _parameters_of(inspection: Inspection) -> object:
    """
    Bind values: a string for a text, null for NULL, {"hex": "..."} for what cannot be a text of
    PostgreSQL (a NUL in it, or not UTF-8), which is how binary values look as a rule.
    """
    if inspection.parameters is None:
        return None
    return [_parameter_of(value) for value in inspection.parameters]


def _parameter_of(value: bytes | None) -> object:
    if value is None:
        return None
    if b"\0" not in value:
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    return {"hex": value.hex()}


def cut_envelope(
    inspection: Inspection, prefix: bytes, with_parameters: bool, limit_bytes: int
) -> bytes:
    """
    An envelope for who only looks on: texts cut until it fits, and `"truncated":true`.

    Bind values and then the tables are left out too when cutting texts is not enough; b"" if
    nothing fits.
    """
    facts = inspection.facts
    query = facts.text.decode("utf-8", "replace")
    for attempt in range(3):
        tables = list(facts.tables) if attempt < 2 else []
        extras = _extras(inspection, with_parameters and attempt == 0, False)
        keep = limit_bytes
        while keep > 0:
            keep //= 2
            texts: dict[str, object] = {
                "query": query[:keep],
                "normalized": facts.normalized[:keep],
                "tables": tables,
                "is_read_only": facts.is_read_only,
                "truncated": True,
            }
            envelope = b'{%b,"hook_context":{"request_id":"%b%d",%b,%b%b%b}' % (
                json_of(texts)[1:-1],
                prefix,
                inspection.request_id,
                fragment_of(inspection.client),
                facts.tail,
                _tail_of(inspection),
                extras,
            )
            if len(envelope) <= limit_bytes:
                return envelope
    return b""


def outcome_json(outcome: Outcome) -> bytes:
    """The second element of what post_query gets."""
    fields: dict[str, object] = {
        "success": outcome.success,
        "target_node": outcome.target_node or None,
        "elapsed_us": outcome.elapsed_us,
        "response_bytes": outcome.response_bytes,
        "error": outcome.error or None,
        "rows": outcome.rows,
        "sqlstate": outcome.sqlstate or None,
    }
    return json_of(fields)


def post_query_envelope(
    inspection: Inspection, prefix: bytes, with_parameters: bool, limit_bytes: int
) -> bytes:
    """The input of post_query: `[context, outcome]`; cut where it would be too long."""
    outcome = outcome_json(inspection.outcome or Outcome())
    context = statement_envelope(inspection, prefix, with_parameters, False)
    if len(context) + len(outcome) + 3 > limit_bytes:
        context = cut_envelope(inspection, prefix, with_parameters, limit_bytes - len(outcome) - 3)
        if not context:
            return b""
    return b"[%b,%b]" % (context, outcome)


def cache_set_envelope(
    inspection: Inspection, prefix: bytes, with_parameters: bool, result_bytes: int, rows: int
) -> bytes:
    """The input of cache_set: the statement's envelope, the key, and how large the result is."""
    added: dict[str, object] = {
        "key": inspection.cache_key,
        "max_age_ms": inspection.cache_max_age_ms,
        "result_bytes": result_bytes,
        "rows": rows,
    }
    envelope = statement_envelope(inspection, prefix, with_parameters, False)
    return envelope[:-1] + b"," + json_of(added)[1:]


def context_envelope(client: ClientContext, request_id: str, added: dict[str, object]) -> bytes:
    """The input of on_connect and on_disconnect: the hook context and the startup parameters."""
    return b'{"request_id":%b,%b,%b' % (
        json_of(request_id),
        fragment_of(client)[:-1],
        json_of({"startup": client.startup, **added})[1:],
    )


def authenticate_envelope(client: ClientContext, password: str | None) -> bytes:
    """The input of authenticate; `password` only for who is granted auth.credentials."""
    return json_of(
        {
            "headers": client.startup,
            "username": client.user,
            "password": password,
            "client_ip": client.client_addr,
            "database": client.database,
        }
    )
