"""The page is complete in itself, and its policy lets nothing else run."""

import base64
import hashlib
import re

from proxy.admin.page import PAGE, PAGE_POLICY
from tests.unit.admin.conftest import Call


def digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_nothing_from_elsewhere() -> None:
    assert not re.search(r"https?://|\bsrc=|@import|url\(", PAGE)
    assert "unsafe" not in PAGE_POLICY
    assert "default-src 'none'" in PAGE_POLICY


def test_the_policy_names_this_script_and_this_style() -> None:
    for tag in ("script", "style"):
        found = re.search(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
        assert found is not None
        assert f"{tag}-src 'sha256-{digest(found.group(1))}'" in PAGE_POLICY


def test_no_text_becomes_markup() -> None:
    assert "innerHTML" not in PAGE
    assert "document.write" not in PAGE
    assert "eval(" not in PAGE


async def test_it_is_served_with_its_policy(call: Call) -> None:
    reply = await call("GET", "/")
    assert reply.headers["content-type"].startswith("text/html")
    assert reply.headers["content-security-policy"] == PAGE_POLICY
