"""
Signatures of plugins: who vouches for a module and its manifest, and until when.

`<stem>.sig` has one of two forms:

    native   JSON {"statement": {"v": 1, "key_id", "name", "version", "abi", "wasm_sha256",
             "manifest_sha256", "not_before", "not_after"}, "signature": base64}; the Ed25519
             signature is over CONTEXT + the statement's canonical JSON (sorted keys, no spaces,
             UTF-8). Module and manifest are both covered. Times are RFC 3339, in UTC.
    ABI 0    base64 of a raw 64-byte Ed25519 signature over the module's bytes, and maybe a newline

One signature is one file: JSON that says the same in another layout, and base64 whose last digit has
bits that mean nothing, are refused. So no byte of a `.sig` can be changed and the file still hold.

A key's id is the first 16 hex digits of the SHA-256 of its 32 raw bytes. Pure but for reading the
trust root and the revocation list; which versions were accepted before is `trust`'s business.
"""

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

CONTEXT: Final = b"headgate-plugin-signature:v1\0"
STATEMENT_KEYS: Final = frozenset(
    (
        "v", "key_id", "name", "version", "abi", "wasm_sha256", "manifest_sha256", "not_before",
        "not_after",
    )
)  # fmt: skip
_MAX_KEYS: Final = 1000
_PREFIX: Final = re.compile(r"(?:key|module)[\s:]+")
_HEX64: Final = re.compile(r"[0-9a-fA-F]{64}\Z")


class SignatureRefused(ValueError):
    """A signature, a key or a list is missing, malformed, wrong, expired or revoked."""


@dataclass(frozen=True, slots=True)
class Revocations:
    """Key ids and module hashes that are no longer trusted."""

    key_ids: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()


@dataclass(slots=True)
class TrustRoot:
    """Public keys by key id, with the names of their files."""

    keys: dict[str, Ed25519PublicKey] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A signature that holds: whose, and for which ABI (None: the legacy form does not say)."""

    key_id: str
    label: str
    abi: int | None


def key_id_of(public: Ed25519PublicKey) -> str:
    """The id of a public key."""
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def canonical(statement: dict[str, Any]) -> bytes:
    """A statement as the bytes that are signed."""
    return json.dumps(
        statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8")


def read_trust_root(directory: Path) -> TrustRoot:
    """Read all `*.pub` of a directory; any that is malformed is an error."""
    root = TrustRoot()
    try:
        paths = sorted(directory.glob("*.pub"))[:_MAX_KEYS]
        for path in paths:
            public = parse_public_key(path.read_bytes(), str(path))
            key_id = key_id_of(public)
            root.keys[key_id] = public
            root.labels[key_id] = path.stem
    except OSError as error:
        raise SignatureRefused(f"trust root {directory}: {error.strerror}") from error
    if not root.keys:
        raise SignatureRefused(
            f"trust root {directory}: no *.pub file; expected at least one public key"
        )
    return root


def parse_public_key(content: bytes, where: str) -> Ed25519PublicKey:
    """A public key from the base64 of its 32 raw bytes."""
    raw = _base64(content, where)
    if len(raw) != 32:
        raise SignatureRefused(
            f"{where}: {len(raw)} bytes; expected the base64 of 32 (a raw Ed25519 public key)"
        )
    return Ed25519PublicKey.from_public_bytes(raw)


def parse_private_key(content: bytes, where: str) -> Ed25519PrivateKey:
    """A private key from the base64 of its 32 raw bytes."""
    raw = _base64(content, where)
    if len(raw) != 32:
        raise SignatureRefused(
            f"{where}: expected the base64 of 32 bytes (a raw Ed25519 private key)"
        )
    return Ed25519PrivateKey.from_private_bytes(raw)


def generate_key() -> tuple[bytes, bytes, str]:
    """A new key: private and public file content, and its id."""
    private = Ed25519PrivateKey.generate()
    secret = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return (
        base64.b64encode(secret) + b"\n",
        base64.b64encode(public) + b"\n",
        key_id_of(private.public_key()),
    )


def read_revocations(path: Path) -> Revocations:
    """Read a list: one key id or module hash a line, `#` starts a comment."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SignatureRefused(f"revocation list {path}: {error}") from error
    key_ids: set[str] = set()
    modules: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        word = line.partition("#")[0].strip()
        if not word:
            continue
        word = _PREFIX.sub("", word)
        if len(word.split()) != 1:
            raise SignatureRefused(
                f"revocation list {path}:{number}: expected one key id or module hash"
            )
        if _HEX64.match(word):
            modules.add(word.lower())
        else:
            key_ids.add(word.lower())
    return Revocations(frozenset(key_ids), frozenset(modules))


def sign(
    private: Ed25519PrivateKey,
    name: str,
    version: str,
    abi: int,
    wasm: bytes,
    manifest: bytes,
    not_before: datetime,
    not_after: datetime,
) -> bytes:
    """Make the content of a native `.sig` file."""
    statement = {
        "v": 1,
        "key_id": key_id_of(private.public_key()),
        "name": name,
        "version": version,
        "abi": abi,
        "wasm_sha256": hashlib.sha256(wasm).hexdigest(),
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "not_before": _rfc3339(not_before),
        "not_after": _rfc3339(not_after),
    }
    signature = private.sign(CONTEXT + canonical(statement))
    return _layout({"statement": statement, "signature": base64.b64encode(signature).decode()})


def _layout(content: dict[str, Any]) -> bytes:
    """A native `.sig` file as it is written."""
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"


def sign_legacy(private: Ed25519PrivateKey, wasm: bytes) -> bytes:
    """Make the content of an ABI 0 `.sig` file."""
    return base64.b64encode(private.sign(wasm)) + b"\n"


def verify(
    root: TrustRoot,
    revocations: Revocations,
    content: bytes,
    name: str,
    version: str,
    wasm: bytes,
    wasm_sha256: str,
    manifest_sha256: str,
    now: datetime,
    allow_legacy: bool,
) -> Verdict:
    """Check a `.sig` of either form against everything it must say; raises SignatureRefused."""
    if content[:1] == b"{":
        return _verify_native(
            root, revocations, content, name, version, wasm_sha256, manifest_sha256, now
        )
    end = b"\r\n" if content.endswith(b"\r\n") else b"\n"
    signature = _exact_base64(content.removesuffix(end))
    if len(signature) != 64:
        raise SignatureRefused(
            f"the signature has {len(signature)} bytes; expected the base64 of 64, or JSON"
        )
    if not allow_legacy:
        raise SignatureRefused(
            "the signature is of the ABI 0 form, which covers the module alone; expected the "
            "native form, or plugins.allow_legacy_signatures = true"
        )
    for key_id, public in root.keys.items():
        try:
            public.verify(signature, wasm)
        except InvalidSignature:
            continue
        _check_key(root, revocations, key_id)
        return Verdict(key_id, root.labels[key_id], None)
    raise SignatureRefused("the signature is by no key of the trust root")


def _verify_native(
    root: TrustRoot,
    revocations: Revocations,
    content: bytes,
    name: str,
    version: str,
    wasm_sha256: str,
    manifest_sha256: str,
    now: datetime,
) -> Verdict:
    statement, signature = _parse_native(content)
    key_id = statement["key_id"]
    public = root.keys.get(key_id)
    if public is None:
        raise SignatureRefused(f"signed by key {key_id!r}, which is not in the trust root")
    try:
        public.verify(signature, CONTEXT + canonical(statement))
    except InvalidSignature:
        raise SignatureRefused(f"the signature is not one of key {key_id}") from None
    _check_key(root, revocations, key_id)
    for key, signed, found in (
        ("name", statement["name"], name),
        ("version", statement["version"], version),
        ("wasm_sha256", statement["wasm_sha256"], wasm_sha256),
        ("manifest_sha256", statement["manifest_sha256"], manifest_sha256),
    ):
        if signed != found:
            raise SignatureRefused(f"signed for {key} {signed!r}, found {found!r}")
    not_before = _parse_time("not_before", statement["not_before"])
    not_after = _parse_time("not_after", statement["not_after"])
    if now < not_before:
        raise SignatureRefused(f"the signature is not valid before {_rfc3339(not_before)}")
    if now > not_after:
        raise SignatureRefused(f"the signature expired at {_rfc3339(not_after)}")
    return Verdict(key_id, root.labels[key_id], statement["abi"])


def _parse_native(content: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        data = json.loads(content.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise SignatureRefused(f"the signature is not valid JSON: {error}") from error
    if not isinstance(data, dict) or set(data) != {"statement", "signature"}:
        raise SignatureRefused('expected JSON with the keys "statement" and "signature"')
    statement, signature = data["statement"], data["signature"]
    if not isinstance(statement, dict) or set(statement) != STATEMENT_KEYS:
        raise SignatureRefused(
            f"the statement's keys are not exactly {', '.join(sorted(STATEMENT_KEYS))}"
        )
    if type(statement["v"]) is not int or statement["v"] != 1:
        raise SignatureRefused(f"statement version {statement['v']!r}; expected 1")
    if type(statement["abi"]) is not int or statement["abi"] not in (0, 1):
        raise SignatureRefused(f"abi {statement['abi']!r} in the statement; expected 0 or 1")
    for key in STATEMENT_KEYS - {"v", "abi"}:
        if not isinstance(statement[key], str):
            raise SignatureRefused(f"{key} in the statement is not a string")
    if not isinstance(signature, str):
        raise SignatureRefused("the signature is not a string")
    raw = _exact_base64(signature.encode())
    if len(raw) != 64:
        raise SignatureRefused(f"the signature has {len(raw)} bytes; expected 64")
    try:
        layouts = (_layout(data), canonical(data))
    except UnicodeEncodeError:
        raise SignatureRefused("the signature has a text that is no Unicode") from None
    if content not in layouts:
        raise SignatureRefused(
            "the JSON is not laid out as `headgate plugin sign` writes it, nor as canonical JSON"
        )
    return statement, raw


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is given twice")
    return result


def _check_key(root: TrustRoot, revocations: Revocations, key_id: str) -> None:
    if key_id in revocations.key_ids or root.labels[key_id].lower() in revocations.key_ids:
        raise SignatureRefused(f"key {key_id} ({root.labels[key_id]}) is revoked")


def _base64(content: bytes, where: str) -> bytes:
    try:
        return base64.b64decode(content.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureRefused(f"{where}: not base64: {error}") from error


def _exact_base64(content: bytes) -> bytes:
    """Decode a signature; the same bytes have one spelling only."""
    raw = _base64(content, "the signature")
    if base64.b64encode(raw) != content:
        raise SignatureRefused("the signature is not base64 as it is written")
    return raw


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parse_time(key: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SignatureRefused(f"{key} {text!r}; expected RFC 3339") from None
    if moment.tzinfo is None:
        raise SignatureRefused(f"{key} {text!r} has no time zone; expected RFC 3339 with Z")
    return moment
