"""Signatures of both forms: altered byte by byte, expired, revoked, by a stranger."""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.plugins.signature import (
    Revocations,
    SignatureRefused,
    TrustRoot,
    canonical,
    generate_key,
    key_id_of,
    parse_private_key,
    read_revocations,
    read_trust_root,
    sign,
    sign_legacy,
    verify,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)
WASM, MANIFEST = b"\0asm module", b'name = "p"'
PRIVATE, PUBLIC, KEY_ID = generate_key()
KEY = parse_private_key(PRIVATE, "key")
ROOT = TrustRoot({KEY_ID: KEY.public_key()}, {KEY_ID: "me"})
NOTHING_REVOKED = Revocations()


def signed():
    return sign(
        KEY,
        name="p",
        version="1.0.0",
        abi=1,
        wasm=WASM,
        manifest=MANIFEST,
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=1),
    )


def check(
    content,
    root=ROOT,
    revocations=NOTHING_REVOKED,
    name="p",
    version="1.0.0",
    wasm=WASM,
    manifest=MANIFEST,
    now=NOW,
    allow_legacy=False,
):
    return verify(
        root,
        revocations,
        content,
        name,
        version,
        wasm,
        hashlib.sha256(wasm).hexdigest(),
        hashlib.sha256(manifest).hexdigest(),
        now,
        allow_legacy,
    )


def test_a_good_signature():
    verdict = check(signed())
    assert (verdict.key_id, verdict.label, verdict.abi) == (KEY_ID, "me", 1)
    assert key_id_of(KEY.public_key()) == KEY_ID


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"wasm": b"\0asm other"}, "wasm_sha256"),
        ({"manifest": b'name = "q"'}, "manifest_sha256"),
        ({"name": "q"}, "signed for name"),
        ({"version": "1.0.1"}, "signed for version"),
        ({"now": NOW + timedelta(days=2)}, "expired"),
        ({"now": NOW - timedelta(days=2)}, "not valid before"),
        ({"root": TrustRoot()}, "not in the trust root"),
        ({"revocations": Revocations(frozenset((KEY_ID,)))}, "revoked"),
        ({"revocations": Revocations(frozenset(("me",)))}, "revoked"),
    ],
)
def test_what_is_refused(changes, reason):
    with pytest.raises(SignatureRefused, match=reason):
        check(signed(), **changes)


@pytest.mark.parametrize("form", ["native", "canonical", "legacy"])
def test_each_altered_byte_is_refused(form):
    content = signed() if form != "legacy" else sign_legacy(KEY, WASM)
    if form == "canonical":
        content = canonical(json.loads(content))
    assert check(content, allow_legacy=True).key_id == KEY_ID
    for position, byte in enumerate(content):
        for other in {byte ^ 1, byte ^ 2, byte ^ 4, byte ^ 0x20, *b" \t\n\rA0=\0"} - {byte}:
            altered = bytearray(content)
            altered[position] = other
            with pytest.raises(SignatureRefused):
                check(bytes(altered), allow_legacy=True)


@pytest.mark.parametrize("form", ["native", "legacy"])
def test_each_shortened_or_lengthened_signature_is_refused(form):
    content = signed() if form != "legacy" else sign_legacy(KEY, WASM)
    shortest = 0 if form == "native" else 1  # the newline behind base64 is nobody's
    for length in range(len(content) - shortest):
        with pytest.raises(SignatureRefused):
            check(content[:length], allow_legacy=True)
    for more in (b" ", b"\n", b"\0", b"{}"):
        with pytest.raises(SignatureRefused):
            check(content + more, allow_legacy=True)
        with pytest.raises(SignatureRefused):
            check(more + content, allow_legacy=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("abi", 0), ("abi", True), ("v", 2), ("key_id", "0" * 16), ("not_after", "2099-01-01T00:00:00Z"),
        ("not_before", "yesterday"), ("wasm_sha256", None), ("version", "9.9.9"), ("name", 1),
    ],
)  # fmt: skip
def test_an_altered_statement_is_refused(key, value):
    data = json.loads(signed())
    data["statement"][key] = value
    with pytest.raises(SignatureRefused):
        check(canonical(data))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"{}", b"[]", b'{"statement":{},"signature":""}', b"\xff\xfe", b"{" * 5000,
        b'{"statement":1,"signature":2}', b"not base64!", base64.b64encode(b"short"),
        b'{"statement":{},"statement":{},"signature":""}', signed().replace(b'"p"', b'"\\ud800"'),
    ],
)  # fmt: skip
def test_what_is_no_signature(content):
    with pytest.raises(SignatureRefused):
        check(content, allow_legacy=True)


def test_a_signature_of_a_revoked_time_zone_is_refused():
    data = json.loads(signed())
    statement = data["statement"]
    statement["not_after"] = "2099-01-01T00:00:00"
    raw = KEY.sign(b"headgate-plugin-signature:v1\0" + canonical(statement))
    data["signature"] = base64.b64encode(raw).decode()
    with pytest.raises(SignatureRefused, match="time zone"):
        check(canonical(data))


def test_the_context_separates_it_from_other_signatures():
    data = json.loads(signed())
    data["signature"] = base64.b64encode(KEY.sign(canonical(data["statement"]))).decode()
    with pytest.raises(SignatureRefused, match="not one of key"):
        check(canonical(data))


def test_the_legacy_form():
    content = sign_legacy(KEY, WASM)
    with pytest.raises(SignatureRefused, match="allow_legacy_signatures"):
        check(content)
    verdict = check(content, allow_legacy=True)
    assert (verdict.label, verdict.abi) == ("me", None)
    with pytest.raises(SignatureRefused, match="no key of the trust root"):
        check(content, allow_legacy=True, wasm=b"\0asm other")
    with pytest.raises(SignatureRefused, match="revoked"):
        check(content, allow_legacy=True, revocations=Revocations(frozenset((KEY_ID,))))


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_garbage_is_refused_and_nothing_else(content):
    with pytest.raises(SignatureRefused):
        check(content, allow_legacy=True)


def test_a_trust_root(tmp_path):
    with pytest.raises(SignatureRefused, match="at least one public key"):
        read_trust_root(tmp_path)
    (tmp_path / "me.pub").write_bytes(PUBLIC)
    (tmp_path / "note.txt").write_text("x")
    root = read_trust_root(tmp_path)
    assert root.labels == {KEY_ID: "me"}
    (tmp_path / "bad.pub").write_bytes(base64.b64encode(b"short"))
    with pytest.raises(SignatureRefused, match=r"bad\.pub.*expected the base64 of 32"):
        read_trust_root(tmp_path)
    (tmp_path / "bad.pub").write_bytes(b"no base64 at all!")
    with pytest.raises(SignatureRefused, match="not base64"):
        read_trust_root(tmp_path)


def test_revocations(tmp_path):
    path = tmp_path / "revoked"
    path.write_text(f"# list\n{KEY_ID}\nkey: keymaster\nmodule {'AB' * 32}  # bad one\n\n")
    found = read_revocations(path)
    assert found.key_ids == {KEY_ID, "keymaster"}
    assert found.modules == {"ab" * 32}
    path.write_text("two words here\n")
    with pytest.raises(SignatureRefused, match="revoked:1: expected one"):
        read_revocations(path)
    with pytest.raises(SignatureRefused):
        read_revocations(tmp_path / "missing")


def test_a_private_key_is_checked():
    with pytest.raises(SignatureRefused, match="expected the base64 of 32"):
        parse_private_key(base64.b64encode(b"x"), "k")
