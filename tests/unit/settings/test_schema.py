"""The JSON schema: it is committed as generated, and says what the loader checks."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from proxy.settings.model import PERMISSIONS
from proxy.settings.schema import schema, schema_text


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return schema()


def test_the_committed_schema_is_current() -> None:
    committed = Path(__file__).parents[3] / "config" / "headgate.schema.json"
    assert committed.read_text(encoding="utf-8") == schema_text()
    assert json.loads(schema_text()) == schema()


def test_unknown_keys_are_refused_in_every_section(document: dict[str, Any]) -> None:
    def walk(node: Any) -> int:
        if isinstance(node, list):
            return sum(map(walk, node))
        if not isinstance(node, dict):
            return 0
        if "properties" in node:
            assert node["additionalProperties"] is False
            assert all("description" in entry for entry in node["properties"].values()) or (
                list(node["properties"]) == ["file"]
            )
        return sum(map(walk, node.values())) + ("properties" in node)

    assert walk(document) > 20


def test_requirements_choices_bounds_and_forms(document: dict[str, Any]) -> None:
    properties = document["properties"]
    assert document["required"] == ["node"]
    assert properties["node"]["items"]["required"] == ["name"]
    assert properties["listen"]["properties"]["port"] == {
        "anyOf": [
            {"type": "integer", "minimum": 1, "maximum": 65535},
            {"type": "string", "pattern": r"\$\{"},
        ],
        "description": "TCP port, also the number in the Unix socket's name. Reload: no.",
        "default": 6432,
    }
    mode = properties["pool"]["properties"]["mode"]
    assert mode["anyOf"][0] == {"enum": ["session", "transaction", "statement"]}
    assert mode["default"] == "transaction"
    grants = properties["plugins"]["properties"]["grants"]["anyOf"][0]
    assert grants["items"]["anyOf"][0]["enum"] == list(PERMISSIONS)
    wait = properties["pool"]["properties"]["wait_timeout"]
    assert wait["default"] == "30s"
    pattern = wait["anyOf"][0]["pattern"]
    assert all(re.search(pattern, text) for text in ("0", "30s", "1h30m", "1.5s", "10min"))
    assert not any(re.search(pattern, text) for text in ("30", "s", "-1s", ""))
    token = properties["admin"]["properties"]["token"]["anyOf"]
    assert token[1]["required"] == ["file"]
    settings = properties["plugins"]["properties"]["settings"]
    assert settings["additionalProperties"]["properties"]["config"]["type"] == "object"
