"""
The host functions that wait: SQL and HTTP.

Permissions `db.query` and `http.fetch`. Plugins granted one of them run on worker threads. An answer
that does not fit is kept, so that a retry with a larger buffer does not run the request again.
"""

import json

from proxy.plugins.host.guest import BAD_ARGUMENT, UNAVAILABLE, Guest


def query(
    guest: Guest, sql: int, sql_len: int, params: int, params_len: int, out: int, capacity: int
) -> int:
    """query(sql_ptr, sql_len, params_ptr, params_len, out_ptr, out_cap): length of the JSON."""
    runner = guest.services.queries
    if runner is None or guest.is_fast:
        return UNAVAILABLE
    text = guest.read(sql, sql_len)
    raw = guest.read(params, params_len)
    request = text + b"\0" + raw
    kept_request, answer = guest.kept
    if kept_request != request:
        try:
            parameters = json.loads(raw) if raw else []
            statement = text.decode("utf-8")
        except ValueError:
            return BAD_ARGUMENT
        if not isinstance(parameters, list):
            return BAD_ARGUMENT
        guest.begin_wait()
        try:
            answer = runner.run(guest.plugin, statement, parameters)
        finally:
            guest.end_wait()
    return _give(guest, request, answer, out, capacity)


def http(guest: Guest, request: int, request_len: int, out: int, capacity: int) -> int:
    """http(req_ptr, req_len, out_ptr, out_cap): length of the JSON response."""
    fetcher = guest.services.http
    if fetcher is None or guest.is_fast:
        return UNAVAILABLE
    text = guest.read(request, request_len)
    kept_request, answer = guest.kept
    if kept_request != text:
        guest.begin_wait()
        try:
            answer = fetcher.fetch(guest.plugin, text)
        finally:
            guest.end_wait()
    return _give(guest, text, answer, out, capacity)


def _give(guest: Guest, request: bytes, answer: bytes, out: int, capacity: int) -> int:
    length = guest.give(answer, out, capacity)
    guest.kept = (request, answer) if length > capacity else (b"", b"")
    return length
