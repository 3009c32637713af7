"""
What plugins answer (plugins.md, 1.2): bytes to one `Answer`, or None.

None is for everything that the contract does not know: no JSON, text that is not UTF-8, an unknown
action, a missing or ill-formed value. The caller makes a failed call of it; nothing here is ever
taken for "continue". Knows neither order nor permissions.
"""

import re
from typing import Final, final

import msgspec

from proxy.hooks import points, shapes
from proxy.hooks.rowset import rows_from_json
from proxy.hooks.shapes import RawAnswer
from proxy.session.inspection import RowSet

# What an answer does; one number for the same thing at several hooks.
PASS: Final = 0  # continue, allow, default, miss, skip, defer: the chain goes on
BLOCK: Final = 1  # block, deny, denied
NEW_TEXT: Final = 2  # rewrite
ROWS: Final = 3  # cached, hit
KEY: Final = 4  # the proxy's own result cache, under this key
TO_PRIMARY: Final = 5
TO_STANDBY: Final = 6
TO_NODE: Final = 7
TO_BRANCH: Final = 8
STORE: Final = 9

GENERIC_REASON: Final = "not allowed"
"""The reason of an immediate block: the plugin gave none."""

MAX_MILLIS: Final = 366 * 24 * 3600 * 1000
MAX_KEY_CHARS: Final = 1024
LARGE_BYTES: Final = 4096


@final
class Answer:
    """
    One answer, understood.

    action    PASS ... STORE
    word      as the contract names it, for the counters: continue, block, hit ...
    text      reason of a block, text of a rewrite, key, target of a route
    sqlstate, hint, detail   of a block, "" where the plugin gave none
    rows      of ROWS
    millis    max_age_ms of a key, ttl_ms of a store
    is_large  too big to be remembered for a pure plugin
    """

    __slots__ = (
        "action",
        "detail",
        "hint",
        "is_large",
        "millis",
        "rows",
        "sqlstate",
        "text",
        "word",
    )

    def __init__(self, action: int, word: str, text: str = "") -> None:
        self.action = action
        self.word = word
        self.text = text
        self.sqlstate = ""
        self.hint = ""
        self.detail = ""
        self.rows: RowSet | None = None
        self.millis = 0
        self.is_large = False


_DEFAULT_WORDS: Final = {
    points.ON_CONNECT: "continue",
    points.AUTHENTICATE: "defer",
    points.AUTHORIZE: "allow",
    points.PRE_QUERY: "continue",
    points.REWRITE: "continue",
    points.CACHE_GET: "miss",
    points.ROUTE: "default",
    points.CACHE_SET: "skip",
}
_DEFAULTS: Final = {hook: Answer(PASS, word) for hook, word in _DEFAULT_WORDS.items()}

_BLOCK_WORDS: Final = {
    points.ON_CONNECT: "block",
    points.AUTHENTICATE: "denied",
    points.AUTHORIZE: "deny",
    points.PRE_QUERY: "block",
    points.ROUTE: "block",
}
_BLOCKS: Final = {hook: Answer(BLOCK, word, GENERIC_REASON) for hook, word in _BLOCK_WORDS.items()}

_COMMON: Final = {
    (hook, form % word.encode()): _DEFAULTS[hook]
    for hook, word in _DEFAULT_WORDS.items()
    for form in (b'{"action":"%s"}', b'{"action": "%s"}')
}
"""The answers that nearly every call gives, as compact and as spaced JSON: no decoding."""


_SQLSTATE: Final = re.compile(r"[0-9A-Z]{5}")


def is_error_sqlstate(sqlstate: str) -> bool:
    """Five digits or capitals, and not of the classes success, warning and no data."""
    return _SQLSTATE.fullmatch(sqlstate) is not None and sqlstate[:2] not in ("00", "01", "02")


def default_answer(hook: int) -> Answer:
    """What the immediate verdict 0 means at a hook."""
    return _DEFAULTS[hook]


def decode(hook: int, answer: bytes | None) -> Answer | None:
    """Understand what `Subscriber.call` gave for a hook that decides; None: a failed call."""
    if answer is None:
        return _DEFAULTS[hook]
    common = _COMMON.get((hook, answer))
    if common is not None:
        return common
    if answer == points.BLOCKED:
        return _BLOCKS.get(hook)
    try:
        # The decoder passes over the text of fields that it does not know.
        answer.decode()
        raw = shapes.answer_decoder.decode(answer)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
    if raw.action == _DEFAULT_WORDS[hook]:
        return _DEFAULTS[hook]
    found = _understand(hook, raw)
    if found is not None and len(answer) > LARGE_BYTES:
        found.is_large = True
    return found


def _understand(hook: int, raw: RawAnswer) -> Answer | None:
    """Everything but the default answers."""
    action = raw.action
    if action == _BLOCK_WORDS.get(hook) and hook != points.AUTHENTICATE:
        return _block(action, raw.reason if hook == points.ROUTE else raw.value, raw)
    if hook == points.PRE_QUERY or hook == points.REWRITE:
        if action == "rewrite":
            # A text with NUL would end there for the server; an empty one is no statement.
            return _with_text(NEW_TEXT, action, raw.value)
        if action == "cached" and hook == points.PRE_QUERY:
            return _rows(action, raw)
    elif hook == points.ROUTE:
        return _route(action, raw)
    elif hook == points.CACHE_GET:
        if action == "hit":
            return _rows(action, raw)
        if action == "key":
            return _key(raw)
    elif hook == points.CACHE_SET and action == "store":
        return _with_millis(Answer(STORE, action), raw.ttl_ms)
    return None


def _with_text(action: int, word: str, text: str | None) -> Answer | None:
    if not text or "\0" in text:
        return None
    return Answer(action, word, text)


def _block(word: str, reason: str | None, raw: RawAnswer) -> Answer | None:
    if reason is None:
        return None
    sqlstate = raw.sqlstate
    if sqlstate is not None and not is_error_sqlstate(sqlstate):
        return None
    answer = Answer(BLOCK, word, reason or GENERIC_REASON)
    answer.sqlstate = sqlstate or ""
    answer.hint = raw.hint or ""
    answer.detail = raw.detail or ""
    # A field of an ErrorResponse ends at its first NUL.
    if "\0" in answer.text or "\0" in answer.hint or "\0" in answer.detail:
        return None
    return answer


def _rows(word: str, raw: RawAnswer) -> Answer | None:
    rows = rows_from_json(bytes(raw.data))
    if rows is None:
        return None
    answer = Answer(ROWS, word)
    answer.rows = rows
    return answer


def _route(action: str, raw: RawAnswer) -> Answer | None:
    if action == "primary":
        return Answer(TO_PRIMARY, action)
    if action == "standby":
        return Answer(TO_STANDBY, action)
    if action == "node":
        return _with_text(TO_NODE, action, raw.target)
    if action == "branch":
        return _with_text(TO_BRANCH, action, raw.target)
    return None


def _key(raw: RawAnswer) -> Answer | None:
    answer = _with_text(KEY, "key", raw.key)
    if answer is None or len(answer.text) > MAX_KEY_CHARS:
        return None
    return _with_millis(answer, raw.max_age_ms)


def _with_millis(answer: Answer, millis: int | None) -> Answer | None:
    if millis is None or not 0 <= millis <= MAX_MILLIS:
        return None
    answer.millis = millis
    return answer


# --- login, scrape and custom calls --------------------------------------------------------

_METRIC_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,127}")
MAX_SAMPLES: Final = 1000


@final
class Login:
    """What `authenticate` answered. `denied`: the message, else None; `username` "" = defer."""

    __slots__ = ("claims", "denied", "roles", "tenant_id", "user_id", "username")

    def __init__(self) -> None:
        self.denied: str | None = None
        self.username = ""
        self.user_id = ""
        self.roles: list[str] = []
        self.tenant_id = ""
        self.claims: dict[str, str] = {}


def decode_login(answer: bytes | None) -> Login | None:
    """Understand an answer of `authenticate`; None: a failed call."""
    login = Login()
    if answer is None:
        return login
    if answer == points.BLOCKED:
        login.denied = GENERIC_REASON
        return login
    try:
        answer.decode()
        raw = shapes.login_decoder.decode(answer)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
    if raw.action == "defer":
        return login
    if raw.action == "denied" and raw.message is not None:
        login.denied = raw.message or GENERIC_REASON
        return None if "\0" in raw.message else login
    if raw.action != "success" or raw.identity is None or not raw.identity.username:
        return None
    found = raw.identity
    login.username = found.username
    login.user_id = found.user_id
    login.roles = found.roles
    login.tenant_id = found.tenant_id or ""
    for name, value in found.claims.items():
        login.claims[name] = (
            value if isinstance(value, str) else msgspec.json.encode(value).decode()
        )
    texts = (login.username, login.user_id, login.tenant_id, *login.roles, *login.claims.values())
    # A comma would make two roles of one in the attribute `roles`; NUL parts the keys of memos.
    if any("\0" in text for text in (*texts, *login.claims)) or any("," in r for r in login.roles):
        return None
    return login


@final
class Sample:
    """One sample of a plugin's own metrics."""

    __slots__ = ("is_counter", "labels", "name", "value")

    def __init__(self, name: str, is_counter: bool, value: float, labels: dict[str, str]) -> None:
        self.name = name
        self.is_counter = is_counter
        self.value = value
        self.labels = labels


def decode_samples(answer: bytes | None) -> list[Sample] | None:
    """Understand an answer of `metrics`; None: a failed call."""
    if answer is None:
        return []
    try:
        answer.decode()
        raw = shapes.samples_decoder.decode(answer)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
    if len(raw) > MAX_SAMPLES:
        return None
    samples = []
    for sample in raw:
        names = (sample.name, *sample.labels)
        if sample.type not in ("counter", "gauge"):
            return None
        if any(_METRIC_NAME.fullmatch(name) is None for name in names):
            return None
        samples.append(Sample(sample.name, sample.type == "counter", sample.value, sample.labels))
    return samples


def is_json(answer: bytes) -> bool:
    """Whether a custom hook's answer is one JSON value."""
    try:
        answer.decode()
        msgspec.json.decode(answer)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return False
    return True
