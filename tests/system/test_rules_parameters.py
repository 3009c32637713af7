"""Rules 8 and 13: a statement's parameters keep the types that its client was told."""

import struct
from collections.abc import Iterator

import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace
from proxy.protocol import frontend
from tests.system.differential import (
    SYNC,
    Differential,
    Elsewhere,
    describe,
    execute,
    make_differential,
    parse,
    query,
    sqlstates,
)

SEVEN = struct.pack("!i", 7)  # as a float4 it is 9.8e-45
INT4 = 23


@pytest.fixture(scope="module")
def both(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> Iterator[Differential]:
    yield from make_differential(workspace, primary, standby, "rules-parameters")


def bind_binary(name: str, value: bytes) -> bytes:
    return frontend.Bind(b"", name.encode(), [1], [value], []).encode()


def change(both: Differential, ddl: str, is_seen: bool) -> None:
    """Change the schema through the proxy, or at the server itself."""
    if is_seen:
        with both.through() as other:
            assert sqlstates([frame.normal() for frame in other.ask(query(ddl))]) == []
    else:
        both.sql(ddl)


@pytest.mark.parametrize("is_seen", [True, False])
@pytest.mark.parametrize("name", ["", "kept"])
def test_rule_13_binary_values_are_not_read_as_another_type_elsewhere(both, name, is_seen):
    """A server settles the types once; the new connection would settle them by the new column."""
    both.sql("DROP TABLE IF EXISTS typed; CREATE TABLE typed (v int)")
    with both.through() as peer:
        elsewhere = Elsewhere(both, peer)
        text = f"INSERT INTO typed VALUES ($1) /* {is_seen} */"
        told = peer.ask(parse(name, text) + describe("S", name) + SYNC)
        assert b"".join(frame.tag for frame in told) == b"1tnZ"
        with elsewhere:
            change(both, "ALTER TABLE typed ALTER v TYPE float4", is_seen)
            frames = peer.ask(bind_binary(name, SEVEN) + execute() + SYNC)
            assert b"".join(frame.tag for frame in frames) == b"2CZ"
            elsewhere.after()
    assert both.row("SELECT v FROM typed") == (7.0,)


def test_rule_10_who_prepares_the_text_after_the_change_has_a_statement_of_its_own(both):
    both.sql("DROP TABLE IF EXISTS renewed; CREATE TABLE renewed (v int)")
    text = "INSERT INTO renewed VALUES ($1)"
    with both.through() as peer:
        elsewhere = Elsewhere(both, peer)
        peer.ask(parse("old", text) + describe("S", "old") + SYNC)
        with elsewhere:
            change(both, "ALTER TABLE renewed ALTER v TYPE float4", is_seen=True)
            with both.through() as other:
                other.ask(parse("new", text) + describe("S", "new") + SYNC)
                other.ask(bind_binary("new", struct.pack("!f", 2.5)) + execute() + SYNC)
            peer.ask(bind_binary("old", SEVEN) + execute() + SYNC)
            (types,) = [frame for frame in peer.ask(describe("S", "old") + SYNC)
                        if frame.tag == b"t"]  # fmt: skip
            assert types.body == struct.pack("!hi", 1, INT4)
    assert both.row("SELECT array_agg(v ORDER BY v) FROM renewed") == ([2.5, 7.0],)


def test_rule_13_a_parameter_whose_type_is_gone_is_an_error_as_at_the_server(both):
    both.sql("DROP TYPE IF EXISTS mood CASCADE; CREATE TYPE mood AS ENUM ('glad')")
    with both.through() as peer:
        elsewhere = Elsewhere(both, peer)
        peer.ask(parse("m", "SELECT $1::mood::text") + describe("S", "m") + SYNC)
        with elsewhere:
            change(both, "DROP TYPE mood; CREATE TYPE mood AS ENUM ('sad', 'glad')", is_seen=True)
            frames = peer.ask(bind_binary("m", b"glad") + execute() + SYNC)
            assert sqlstates([frame.normal() for frame in frames]) == ["XX000"]
            again = peer.ask(parse("n", "SELECT $1::mood::text") + describe("S", "n") + SYNC)
            assert b"".join(frame.tag for frame in again) == b"1tTZ"
            frames = peer.ask(bind_binary("n", b"sad") + execute() + SYNC)
            assert b"".join(frame.tag for frame in frames) == b"2DCZ"
    both.usable()
