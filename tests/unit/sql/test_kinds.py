"""The tables are about the grammar that the parser has."""

from pathlib import Path

import pglast

from proxy.sql.kinds import LEAVES_STATE, READ_KEYS, STATEMENT_KINDS, STORES_ONLY

# A statement that no client can send: parts of other statements, or of PL/pgSQL.
NOT_SENT = {"PLAssignStmt", "RawStmt", "ReturnStmt", "SetOperationStmt"}


KINDS = """
select insert update delete merge copy ddl set transaction call do explain prepare execute declare
fetch listen notify lock utility
"""


def test_every_statement_of_the_grammar_has_a_kind() -> None:
    # Read as text: importing pglast's tree of classes is what this project avoids.
    source = (Path(pglast.__file__).parent / "ast.py").read_text()
    names = {
        line.split()[1].split("(")[0]
        for line in source.splitlines()
        if line.startswith("class ") and line.split("(")[0].endswith("Stmt")
    }
    assert len(names) > 100
    assert names - NOT_SENT == set(STATEMENT_KINDS)


def test_kinds_are_those_of_the_contract() -> None:
    assert set(STATEMENT_KINDS.values()) == set(KINDS.split())


def test_tables_name_known_statements() -> None:
    assert set(STATEMENT_KINDS) >= LEAVES_STATE
    assert set(STATEMENT_KINDS) >= STORES_ONLY


def test_reads_have_no_part_that_writes() -> None:
    statements = {key for key in READ_KEYS if key.endswith("Stmt")}
    assert statements == {"SelectStmt", "ExplainStmt", "CopyStmt", "VariableShowStmt"}
    assert READ_KEYS.isdisjoint(
        {"intoClause", "lockingClause", "is_from", "is_program", "filename"}
    )
