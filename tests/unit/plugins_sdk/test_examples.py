"""tag-tenant, pin-reports, audit, pass: what they answer, log and count."""

import json
import tomllib
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.hooks.points import ABI_VERSION, HOOK_NAMES
from proxy.session.inspection import Inspection, Outcome
from proxy.settings.plugin_model import PERMISSIONS
from tests.unit.plugins_sdk.guest import (
    CLASSIFIER,
    EXAMPLES,
    Guest,
    envelope,
    inspection,
    module_of,
    told,
)

NAMES = sorted(path.name for path in EXAMPLES.iterdir())


# --- every example -------------------------------------------------------------------------------


def test_the_examples() -> None:
    assert NAMES == ["audit", "no-drop", "pass", "pass-json", "pin-reports", "tag-tenant"]


@pytest.mark.parametrize("name", NAMES)
def test_manifest_and_module_agree(name: str) -> None:
    directory = EXAMPLES / name
    manifest = tomllib.loads((directory / f"{name}.toml").read_text())
    module = module_of(name)
    exports = {export.name for export in module.exports}
    assert manifest["name"] == name
    assert manifest["abi"] == ABI_VERSION
    assert {"memory", "headgate_abi_1", "input_buffer"} <= exports
    assert set(manifest["hooks"]) == exports & set(HOOK_NAMES)
    assert set(manifest["permissions"]) <= set(PERMISSIONS)
    asked = {"log": "log", "metric_add": "metrics"}
    imports = {found.name for found in module.imports}
    assert {asked[str(imported)] for imported in imports} <= set(manifest["permissions"])
    assert (directory / f"{name}.c").is_file()
    assert (directory / "README.md").is_file()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "audit"])
def test_a_large_configuration_fits(name: str) -> None:
    guest = Guest(name, {"unknown": "x" * 50_000})
    assert guest.init_answer is None


# --- pass ---------------------------------------------------------------------------------------


def test_pass() -> None:
    assert Guest("pass").run("pre_query", envelope(inspection("SELECT 1"))) is None
    answer = Guest("pass-json").run("pre_query", envelope(inspection("SELECT 1")))
    assert answer == {"action": "continue"}


# --- tag-tenant ----------------------------------------------------------------------------------


def tagged(found: Inspection, **config: Any) -> str | None:
    guest = Guest("tag-tenant", config)
    assert guest.init_answer is None
    answer = guest.run("rewrite", envelope(found))
    if answer is None:
        return None
    assert answer["action"] == "rewrite"
    return str(answer["value"])


def test_the_comment_stands_in_front() -> None:
    sql = "SELECT 'é\n\"x\"' -- end"
    assert tagged(inspection(sql)) == f"/*app='psql',tenant='shop',user='alice'*/ {sql}"


def test_tenant_of_the_identity_and_of_the_configuration() -> None:
    found = inspection("SELECT 1")
    found.client.tenant_id = "acme"
    assert "tenant='acme'" in str(tagged(found))
    assert "tenant='eu-1'" in str(tagged(found, tenant="eu-1"))


@pytest.mark.parametrize("sql", ["PREPARE p AS SELECT 1", "  prepare p AS SELECT 1", "EXECUTE p"])
def test_what_sql_execute_runs_keeps_its_text(sql: str) -> None:
    assert tagged(inspection(sql)) is None


def test_what_nobody_read_is_not_touched() -> None:
    assert tagged(inspection("SELECT 1", unknown=True)) is None


@given(app=st.text(max_size=30), user=st.text(min_size=1, max_size=30))
def test_no_value_ends_its_quotes_or_the_comment(app: str, user: str) -> None:
    found = inspection("SELECT 1")
    found.client.application_name = app
    found.client.identity = user
    text = str(tagged(found))
    comment, _, rest = text.partition("*/")
    assert rest == " SELECT 1"
    assert comment.startswith("/*app='")
    tags = comment[2:].split(",")
    assert [tag.partition("=")[0] for tag in tags] == ["app", "tenant", "user"]
    values = [unquote(tag.partition("=")[2][1:-1]) for tag in tags]
    utf8 = [text.encode("utf-8", "replace").decode() for text in (app, "shop", user)]
    assert values == utf8
    (facts,) = CLASSIFIER.exact(text.encode()).statements
    assert facts.kind == "select"
    assert facts.is_read_only


def test_long_texts_are_tagged_whole() -> None:
    sql = "SELECT '" + "x" * 20_000 + "'"
    assert str(tagged(inspection(sql))).endswith(sql)


@pytest.mark.parametrize("tenant", [7, "x" * 65])
def test_a_wrong_tenant_refuses_the_load(tenant: object) -> None:
    answer = Guest("tag-tenant", {"tenant": tenant}).init_answer
    assert answer["action"] == "block"
    assert "tenant is no name" in answer["value"]


# --- pin-reports ---------------------------------------------------------------------------------


def routed(found: Inspection, **config: Any) -> Any:
    guest = Guest("pin-reports", config)
    assert guest.init_answer is None
    return guest.run("route", envelope(found))


STANDBY = {"action": "standby"}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM reports",
        "SELECT * FROM report_by_region",
        "SELECT * FROM public.orders_report r JOIN t USING (id)",
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM reports)",
    ],
)
def test_reads_of_reports_are_pinned(sql: str) -> None:
    assert routed(inspection(sql)) == STANDBY


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM orders",
        "SELECT 'reports'",
        "SELECT * FROM reports.orders",
        "INSERT INTO reports VALUES (1)",
        "SELECT * FROM reports FOR UPDATE",
        "DELETE FROM reports WHERE id = 1",
    ],
)
def test_everything_else_goes_where_it_would(sql: str) -> None:
    assert routed(inspection(sql)) is None


def test_an_open_transaction_stays_where_it_is() -> None:
    assert routed(inspection("SELECT * FROM reports", in_transaction=True)) is None


def test_by_application() -> None:
    found = inspection("SELECT * FROM orders")
    found.client.application_name = "reports"
    assert routed(found) == STANDBY
    assert routed(found, applications=["bi"]) is None
    assert routed(found, applications=[]) is None
    found.client.application_name = "bi"
    found.client.fragment = b""
    assert routed(found, applications=["bi"]) == STANDBY


def test_where_the_configuration_says() -> None:
    found = inspection("SELECT * FROM sales.q1, orders")
    assert routed(found, tables=["sales.q1"]) == STANDBY
    assert routed(found, tables=["sales.*"]) == STANDBY
    assert routed(found, tables=["q1"], to="primary") == {"action": "primary"}
    assert routed(found, tables=["q1"], to="standby") == STANDBY
    assert routed(found, tables=["q1"], node='pg"2') == {"action": "node", "target": 'pg"2'}
    assert routed(found, tables=["1"]) is None
    assert routed(found, tables=["*"]) == STANDBY


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"tables": "reports"}, "tables is no list"),
        ({"tables": [""]}, "tables is no list"),
        ({"tables": ["t"] * 65}, "tables is no list"),
        ({"applications": [1]}, "applications is no list"),
        ({"to": "moon"}, "to is not known"),
        ({"node": ""}, "node is no name"),
    ],
)
def test_a_wrong_configuration_refuses_the_load(config: dict[str, object], reason: str) -> None:
    answer = Guest("pin-reports", config).init_answer
    assert answer["action"] == "block"
    assert reason in answer["value"]


# --- audit ---------------------------------------------------------------------------------------


def outcome(**fields: object) -> Outcome:
    found = Outcome()
    found.target_node = "pg1"
    found.elapsed_us = 120
    for name, value in fields.items():
        setattr(found, name, value)
    return found


FAILED: dict[str, Any] = {"success": False, "sqlstate": "42P01", "error": "no such table"}


def audited(sql: str, log: str | None = None, **fields: object) -> Guest:
    guest = Guest("audit", {} if log is None else {"log": log})
    assert guest.init_answer is None
    assert guest.run("post_query", told(inspection(sql), outcome(**fields))) is None
    return guest


def test_counts() -> None:
    guest = audited("SELECT 1", rows=3)
    assert guest.counts == {
        "statements_total": 1,
        "statements_select_total": 1,
        "rows_total": 3,
    }
    found = inspection("DELETE FROM t WHERE id = 1")
    guest.run("post_query", told(found, outcome(**FAILED)))
    assert guest.counts["statements_total"] == 2
    assert guest.counts["statements_delete_total"] == 1
    assert guest.counts["errors_total"] == 1


def test_a_line_for_what_changes_something_without_its_constants() -> None:
    guest = audited("DELETE FROM t\nWHERE name = 'secret'", rows=2)
    ((level, line),) = guest.lines
    assert level == 2
    assert line.startswith("delete user=alice database=shop addr=10.0.0.7 request=t-0 node=pg1 ")
    assert " rows=2 elapsed_us=120 sql=DELETE FROM t WHERE name = $1" in line
    assert "secret" not in line


def test_a_warning_for_what_failed() -> None:
    ((level, line),) = audited("SELECT 1", **FAILED).lines
    assert level == 3
    assert " sqlstate=42P01 " in line


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("none", (0, 0, 0)),
        ("errors", (0, 0, 1)),
        ("writes", (0, 1, 1)),
        ("all", (1, 1, 1)),
        (None, (0, 1, 1)),
    ],
)
def test_what_is_logged(log: str | None, expected: tuple[int, int, int]) -> None:
    lines = (
        audited("SELECT 1", log).lines,
        audited("DELETE FROM t WHERE a = 1", log).lines,
        audited("SELECT 1", log, **FAILED).lines,
    )
    assert tuple(len(found) for found in lines) == expected


def test_long_texts_are_cut_between_characters() -> None:
    ((_, line),) = audited("DELETE FROM t WHERE x IN (" + "ü," * 1500 + "1)").lines
    assert len(line.encode()) < 1400


def test_a_wrong_log_setting_refuses_the_load() -> None:
    answer = Guest("audit", {"log": "some"}).init_answer
    assert answer["action"] == "block"
    assert "expected none, errors, writes or all" in answer["value"]


@given(st.binary(max_size=80))
def test_rubbish_does_not_hurt(data: bytes) -> None:
    Guest("audit").run("post_query", data)
    Guest("tag-tenant").run("rewrite", data)
    Guest("pin-reports").run("route", data)


@given(st.recursive(st.one_of(st.none(), st.text(max_size=5), st.integers()),
                    lambda inner: st.one_of(st.lists(inner, max_size=3),
                                            st.dictionaries(st.text(max_size=5), inner, max_size=3)),
                    max_leaves=8))  # fmt: skip
def test_members_are_found_behind_any_json(value: object) -> None:
    payload = json.dumps(
        {"a": value, "is_read_only": True, "tables": [value, "reports"], "b": value}
    ).encode()
    assert Guest("pin-reports").run("route", payload) == STANDBY
