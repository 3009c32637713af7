"""The model itself: frozen, documented, secrets hidden, and what its defaults promise."""

import pytest

from proxy.settings.kinds import Secret
from proxy.settings.model import Auth, Database, Kv, Node, Settings
from proxy.settings.texts import sections, texts_of


def test_nothing_changes_a_setting() -> None:
    settings = Settings()
    with pytest.raises(AttributeError):
        settings.log = settings.log  # type: ignore[misc]
    for section in sections().values():
        assert section.__struct_config__.frozen
        assert section.__struct_config__.forbid_unknown_fields


def test_secrets_are_in_no_repr() -> None:
    settings = Settings(
        auth=Auth(query_password=Secret("hush-1")),
        database=(Database(name="x", user="u", password=Secret("hush-2")),),
        kv=Kv(url=Secret("redis://:hush-3@host")),
    )
    assert "hush" not in repr(settings)
    assert "hush" not in str(settings)
    assert settings.kv.url == "redis://:hush-3@host"


def test_every_setting_says_what_it_is_for_and_what_a_reload_does() -> None:
    for header, section in sections().items():
        texts = texts_of(section)
        for name in section.__struct_fields__:
            assert name in texts, f"{header} {name} has no text"
            assert texts[name].purpose, f"{header} {name}"
            assert texts[name].reload.startswith(("yes", "no")), f"{header} {name}"


def test_what_is_dangerous_is_off_unless_it_is_asked_for() -> None:
    settings = Settings()
    assert settings.listen.host == ("127.0.0.1",)
    assert settings.admin.host == "127.0.0.1"
    assert settings.auth.method == "scram-sha-256"
    assert not settings.auth.allow_cleartext_without_tls
    assert not settings.auth.allow_remote_trust
    assert settings.plugins.dir is None
    assert settings.plugins.grants == ("log", "metrics", "config", "clock")
    assert settings.plugins.query.read_only
    assert settings.plugins.query.user == ""
    assert settings.plugins.http.allow_hosts == ()
    assert not settings.plugins.allow_downgrade
    assert not settings.plugins.allow_legacy_signatures
    assert Node(name="a").tls.mode == "prefer"
