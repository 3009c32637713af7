"""The operator's rules of trust, as the manager applies them."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from proxy.plugins.signature import generate_key, parse_private_key, sign, sign_legacy
from proxy.plugins.trust import AcceptedVersions
from tests.support.wat import FakePipeline, body_wat, make_manager, manifest, put

PRIVATE, PUBLIC, KEY_ID = generate_key()
KEY = parse_private_key(PRIVATE, "key")
GOOD = body_wat("(i64.const 0)")


def put_signed(directory, version, body="(i64.const 0)", abi=1, **times):
    now = datetime.now(UTC)
    path = put(directory, "p", body_wat(body), manifest("p", version))
    content = sign(
        KEY, "p", version, abi, path.read_bytes(), path.with_suffix(".toml").read_bytes(),
        times.get("not_before", now - timedelta(hours=1)),
        times.get("not_after", now + timedelta(hours=1)),
    )  # fmt: skip
    path.with_suffix(".sig").write_bytes(content)
    return path


@pytest.fixture
def places(tmp_path):
    for name in ("plugins", "root", "cache"):
        (tmp_path / name).mkdir(mode=0o700)
    (tmp_path / "root" / "me.pub").write_bytes(PUBLIC)
    return tmp_path


@pytest.fixture
async def manager(places):
    found = make_manager(
        places / "plugins", FakePipeline(), trust_root=places / "root", cache_dir=places / "cache",
        revocation_file=places / "revoked",
    )  # fmt: skip
    (places / "revoked").write_text("")
    yield found
    await found.stop()


async def error_of(manager):
    await manager.reload()
    return str(manager.get("p")["error"])


async def test_only_signed_plugins_load(manager, places):
    put(places / "plugins", "p", GOOD, manifest("p"))
    assert "no signature; expected p.sig" in await error_of(manager)
    put_signed(places / "plugins", "1.0.0")
    assert await error_of(manager) == "None"
    assert manager.get("p")["is_signed"]


async def test_a_changed_manifest_is_refused_and_the_old_one_runs(manager, places):
    path = put_signed(places / "plugins", "1.0.0")
    await manager.reload()
    path.with_suffix(".toml").write_text(manifest("p", "1.0.0", more="priority = 1"))
    assert "manifest_sha256" in await error_of(manager)
    assert manager.get("p")["status"] == "active"
    assert manager.get("p")["generation"] == 1


async def test_expiry_and_revocation(manager, places):
    past = datetime.now(UTC) - timedelta(minutes=1)
    put_signed(places / "plugins", "1.0.0", not_after=past)
    assert "expired" in await error_of(manager)
    path = put_signed(places / "plugins", "1.0.1")
    (places / "revoked").write_text(KEY_ID)
    assert "is revoked" in await error_of(manager)
    (places / "revoked").unlink()
    path.touch()
    assert "revocation list" in await error_of(manager)


async def test_a_revoked_module_is_refused_without_a_trust_root_too(places):
    manager = make_manager(places / "plugins", FakePipeline(), revocation_file=places / "revoked")
    put(places / "plugins", "p", GOOD, manifest("p"))
    (places / "revoked").write_text("")
    await manager.reload()
    digest = manager.get("p")["wasm_sha256"]
    (places / "revoked").write_text(digest)
    event = (await manager.reload("p"))[0]
    assert event.kind == "load_failed"
    assert "is revoked" in event.message
    await manager.stop()


async def test_an_older_version_is_refused_also_after_a_restart(manager, places):
    put_signed(places / "plugins", "1.2.0")
    await manager.reload()
    put_signed(places / "plugins", "1.1.9")
    assert "version 1.1.9 is lower than 1.2.0" in await error_of(manager)
    again = make_manager(
        places / "plugins", FakePipeline(), trust_root=places / "root", cache_dir=places / "cache"
    )
    assert "is lower than 1.2.0" in await error_of(again)
    await again.stop()
    allowed = make_manager(
        places / "plugins", FakePipeline(), trust_root=places / "root",
        cache_dir=places / "cache", allow_downgrade=True,
    )  # fmt: skip
    assert await error_of(allowed) == "None"
    await allowed.stop()


async def test_the_signed_abi_must_be_the_modules(manager, places):
    put_signed(places / "plugins", "1.0.0", abi=0)
    assert "signed for ABI 0, the module is ABI 1" in await error_of(manager)


async def test_the_legacy_form_needs_the_operators_word(places):
    path = put(places / "plugins", "p", GOOD, manifest("p"))
    path.with_suffix(".sig").write_bytes(sign_legacy(KEY, path.read_bytes()))
    for allowed, expected in ((False, "allow_legacy_signatures"), (True, "None")):
        manager = make_manager(
            places / "plugins", FakePipeline(), trust_root=places / "root",
            allow_legacy_signatures=allowed,
        )  # fmt: skip
        assert expected in await error_of(manager)
        await manager.stop()


async def test_a_trust_root_that_is_gone_trusts_nobody(places):
    put_signed(places / "plugins", "1.0.0")
    manager = make_manager(places / "plugins", FakePipeline(), trust_root=places / "nowhere")
    assert "trust root" in await error_of(manager)
    await manager.stop()


def test_a_broken_store_of_versions_fails_closed(tmp_path):
    tmp_path.chmod(0o700)
    versions = AcceptedVersions(tmp_path)
    versions.accept("p", "1.0.0", False)
    assert json.loads((tmp_path / "accepted-versions.json").read_text()) == {"p": "1.0.0"}
    versions.accept("p", "0.9.0", False)
    versions.check("p", "1.0.0")
    for content in ("{", "[1]", '{"p": 1}'):
        (tmp_path / "accepted-versions.json").write_text(content)
        with pytest.raises(ValueError, match="accepted-versions"):
            versions.check("p", "1.0.0")
