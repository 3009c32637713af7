"""`headgate plugin …`: output and exit codes."""

import json

import pytest
from typer.testing import CliRunner

from proxy.cli.plugin import app
from tests.support.wat import body_wat, manifest, put

runner = CliRunner()


def invoke(*arguments, code=0):
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def module(tmp_path):
    return put(
        tmp_path, "p", body_wat("$answer", b'{"action":"block","value":"no"}'), manifest("p")
    )


def test_keys_and_signatures(tmp_path, module):
    shown = invoke("keygen", "me", "--dir", tmp_path)
    assert "private key" in shown
    assert (tmp_path / "me.key").stat().st_mode & 0o777 == 0o600
    secret = (tmp_path / "me.key").read_text().strip()
    assert secret not in shown
    invoke("keygen", "me", "--dir", tmp_path, code=2)
    (tmp_path / "root").mkdir()
    assert "no signature" in invoke("verify", module, "--trust-root", tmp_path / "root", code=1)
    assert "signed p 1.0.0" in invoke("sign", module, "--key", tmp_path / "me.key")
    assert "no *.pub file" in invoke("verify", module, "--trust-root", tmp_path / "root", code=1)
    (tmp_path / "root" / "me.pub").write_bytes((tmp_path / "me.pub").read_bytes())
    assert "signed by me" in invoke("verify", module, "--trust-root", tmp_path / "root")
    (tmp_path / "revoked").write_text("me\n")
    revoked = ("--revocations", tmp_path / "revoked")
    assert "revoked" in invoke(
        "verify", module, "--trust-root", tmp_path / "root", *revoked, code=1
    )
    invoke("sign", module, "--key", tmp_path / "me.key", "--legacy")
    invoke("verify", module, "--trust-root", tmp_path / "root", code=1)
    invoke("verify", module, "--trust-root", tmp_path / "root", "--allow-legacy")
    invoke("sign", module, "--key", tmp_path / "me.pub.missing", code=2)


def test_new_build_test_and_dev(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "next: headgate plugin build" in invoke("new", "guard", "--lang", "wat")
    invoke("new", "guard", "--lang", "wat", code=2)
    invoke("new", "other", "--lang", "cobol", code=2)
    invoke("new", "bad name", "--lang", "wat", code=2)
    assert "built" in invoke("build", "guard")
    assert "2 of 2 held" in invoke("test", "guard/guard.wasm")
    assert "2 of 2 held" in invoke("dev", "guard", "--once")
    assert "wrote" not in invoke("pack", "guard/guard.wasm")
    assert (tmp_path / "guard-0.1.0.tar.gz").is_file()
    (tmp_path / "guard" / "guard.wat").write_text("(module")
    invoke("build", "guard", code=1)
    assert "waiting for a change" in invoke("dev", "guard", "--once")


def test_run_and_check(tmp_path, module):
    shown = invoke("run", module, "--sql", "DROP TABLE t")
    assert "pre_query: block" in shown
    assert '"value": "no"' in shown
    invoke("run", module, "--hook", "lunch", code=2)
    invoke("run", module, "--hook", "route", code=2)
    (tmp_path / "input.json").write_text("{}")
    invoke("run", module, "--input", tmp_path / "input.json")
    output = invoke("check", module)
    assert json.loads(output[: output.rindex("}") + 1])["name"] == "p"
    put(tmp_path, "bad", body_wat("unreachable"), manifest("bad"))
    assert "cause: trap" in invoke("run", tmp_path / "bad.wasm", code=1)
    invoke("check", tmp_path / "nothing.wasm", code=1)


def test_failing_cases(tmp_path, module):
    cases = tmp_path / "p.cases.json"
    cases.write_text('[{"name": "passes", "expect": {"action": "continue"}}]')
    output = invoke("test", module, code=1)
    assert "FAIL passes" in output
    assert "action is 'block'; expected 'continue'" in output
    cases.write_text("[")
    invoke("test", module, code=2)


def test_bench_and_replay(tmp_path, module):
    assert "us a call" in invoke("bench", module, "--calls", "50")
    (tmp_path / "q.sql").write_text("SELECT 1\n\nDROP TABLE t\n")
    output = invoke("replay", module, tmp_path / "q.sql")
    assert "block: 2" in output
    invoke("replay", module, tmp_path / "none.sql", code=2)
