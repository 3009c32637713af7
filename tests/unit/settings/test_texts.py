"""Texts under fields, sections' headers, and values as they are written."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from proxy.settings.fields import settings_of
from proxy.settings.kinds import Bytes, OptionalPath, Seconds
from proxy.settings.model import Listen, Settings
from proxy.settings.texts import (
    has_default,
    plain_default,
    section_text,
    sections,
    texts_of,
    to_toml,
    toml_default,
)


class Sample(Struct, frozen=True):
    """`[sample]`: for this test."""

    wait: Seconds = 90.0
    """How long.
    Reload: yes, for
    new ones."""
    size: Bytes = 65536
    """How much. Reload: no."""
    path: OptionalPath = None
    words: tuple[str, ...] = ('a"b',)
    free: dict[str, Any] = {}
    flag: bool = True
    number: Annotated[int, Meta(ge=1)] = 5


def test_a_text_is_its_purpose_and_what_a_reload_does() -> None:
    texts = texts_of(Sample)
    assert (texts["wait"].purpose, texts["wait"].reload) == ("How long.", "yes, for new ones")
    assert (texts["size"].purpose, texts["size"].reload) == ("How much.", "no")
    assert "path" not in texts
    assert section_text(Sample) == "for this test."
    assert section_text(Settings) == "The whole file."


def test_defaults_as_toml() -> None:
    written = {
        name: to_toml(setting.shape, setting.default)
        for name, setting in settings_of(Sample).items()
    }
    assert written == {
        "wait": '"90s"',
        "size": '"64KiB"',
        "path": '""',
        "words": '["a\\"b"]',
        "free": "{}",
        "flag": "true",
        "number": "5",
    }


def test_sections_are_in_the_files_order_and_hold_each_other() -> None:
    headers = list(sections())
    assert headers[:2] == ["[listen]", "[listen.tls]"]
    assert headers.index("[[node]]") + 1 == headers.index("[node.tls]")
    assert "[plugins.settings.no-drop.limits]" in headers
    assert sections()["[listen]"] is Listen


def test_everything_has_a_default_or_an_example() -> None:
    for section in sections().values():
        for setting in settings_of(section).values():
            if setting.shape.table is None:
                assert toml_default(section, setting)
                plain_default(section, setting)
                assert has_default(setting) or setting.is_required or setting.default is None
