"""Semantic versions in their order."""

import itertools

import pytest

from proxy.plugins.version import is_version, version_key

ORDER = [
    "0.0.9", "0.9.0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta",
    "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2.0.0",
]  # fmt: skip


@pytest.mark.parametrize(("lower", "higher"), list(itertools.combinations(ORDER, 2)))
def test_precedence(lower, higher):
    assert version_key(lower) < version_key(higher)


def test_equal_ones():
    assert version_key("1.2.0+a") == version_key("1.2.0+b")
    assert version_key("1.2") == version_key("1.2.0")
    assert version_key("nonsense") < version_key("0.0.1")


@pytest.mark.parametrize("text", ["1.2.0", "1.0.0-rc.1+build.5", "0.0.0"])
def test_versions(text):
    assert is_version(text)


@pytest.mark.parametrize("text", ["", "1", "1.2", "01.2.3", "1.2.3-", "v1.2.3", "1.2.3\n", "1.2.x"])
def test_no_versions(text):
    assert not is_version(text)
