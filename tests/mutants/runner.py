"""
Take each rule of the protocol away, and see that its test notices: `make mutants`.

A test that passes without the thing it is a test of is no test. The tables beside this file hold
mutations: the rule, what is wrong with the program then, the file, the text that goes and the text
that comes in its place, and the tests of which at least one must fail. Each is made in a copy of the
tree, with the tests as they are; before that the same tests must all pass there without any.

Only a test that was begun and has failed counts. One that could not be collected or set up shows
that the program does not start, not that the rule is tested; and a text that is not there any more
means that the list is out of date. Both end the run as a failure, as a mutant does that lives.

`make mutants ARGS='08 24'` runs those of two rules; `--list` shows them all.
"""

import argparse
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
COPIED: Final = ("proxy", "plugins_sdk", "config", "tests", "docs", "tools", "pyproject.toml")
TIMEOUT_S: Final = 600

# A test that waits for what never comes shall say so itself. What a broken program leaves open is a
# warning, and an error only where a test is of it.
OPTIONS: Final = [
    "-q",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:randomly",
    "--timeout",
    "100",
    "-W",
    "default",
]


class Mutant(NamedTuple):
    """One mutation; `where` it stands, for a reader."""

    where: str
    rule: str
    what: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"rule {self.rule}: {self.what}"


class Outcome(NamedTuple):
    """What became of the tests: names of those that failed, and of those that did not get so far."""

    passed: int
    failed: list[str]
    broken: list[str]
    output: str


class Stale(Exception):
    """A mutation that cannot be made."""


def read_table(text: str, name: str) -> list[Mutant]:
    """
    The mutations: paragraphs of `rule what`, the file, lines that go (`-`), come (`+`) and stay (`=`),
    and tests (`>`). Lines that begin with `#` are comments.
    """
    found: list[Mutant] = []
    paragraph: list[str] = []
    first = 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.startswith("#"):
            continue
        if line.strip():
            first = first if paragraph else number
            paragraph.append(line)
        elif paragraph:
            found.append(_mutant(f"{name}:{first}", paragraph))
            paragraph = []
    return found


def read_tables() -> list[Mutant]:
    """All mutations, in the order of their rules."""
    found = [m for path in HERE.glob("*.txt") for m in read_table(path.read_text(), path.name)]
    return sorted(found, key=lambda mutant: mutant.rule)


def _mutant(where: str, paragraph: list[str]) -> Mutant:
    def marked(*marks: str) -> list[str]:
        return [line[2:] for line in paragraph[2:] if line[:1] in marks]

    rule, _, what = paragraph[0].partition(" ")
    old, new, tests = marked("-", "="), marked("+", "="), marked(">")
    if not (
        rule.isdigit() and what and paragraph[1].endswith(".py") and old and old != new and tests
    ):
        raise Stale(f"{where}: not a mutation")
    if any(line[:1] not in "-+=>" for line in paragraph[2:]):
        raise Stale(f"{where}: a line without a mark")
    path = paragraph[1]
    return Mutant(where, rule, what, path, "\n".join(old), "\n".join(new), tuple(tests))


def mutated(mutant: Mutant, text: str) -> str:
    """The file's text with the mutation. Raises Stale where it is not one, and only one, place."""
    count = text.count(mutant.old)
    if count != 1:
        raise Stale(f"{mutant.where}: its text is {count} times in {mutant.path}")
    return text.replace(mutant.old, mutant.new)


class Copy:
    """A copy of the tree for one mutant at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "target", "node_modules")
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=ignored)
            else:
                shutil.copy2(source, root / name)

    def run(self, tests: tuple[str, ...], limit_s: float | None = None, *options: str) -> Outcome:
        """Run tests in the copy."""
        report = self.root / "report.xml"
        report.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "pytest",
            *OPTIONS,
            *options,
            f"--junitxml={report}",
            *tests,
        ]
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit_s)
        finally:
            # What a broken program has left running goes with its tests.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return outcome_of(report, output)

    def run_mutant(self, mutant: Mutant) -> Outcome:
        """Run a mutant's tests in the copy with the mutation, and take that back."""
        path = self.root / mutant.path
        text = path.read_text()
        _write(path, mutated(mutant, text))
        try:
            return self.run(mutant.tests, TIMEOUT_S, "-x")
        finally:
            _write(path, text)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    # Python takes a compiled file of the same second and size for that of the text.
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def outcome_of(report: Path, output: str) -> Outcome:
    """Read a report of pytest's; none is there where it could not start."""
    passed = 0
    failed: list[str] = []
    broken: list[str] = []
    cases: Iterator[ElementTree.Element] = iter(())
    if report.exists():
        cases = ElementTree.parse(report).iter("testcase")
    for case in cases:
        name = case.get("name", "")
        # One that has failed may have an error besides, from what is cleared up behind it.
        if case.find("failure") is not None:
            failed.append(name)
        elif case.find("error") is not None:
            broken.append(name)
        elif case.find("skipped") is None:
            passed += 1
    return Outcome(passed, failed, broken, output)


def verdict(outcome: Outcome) -> str:
    """Nothing where the mutant was noticed as it should be, else what is wrong."""
    if outcome.failed:
        return ""
    if outcome.broken:
        return f"not begun, or not ended: {', '.join(outcome.broken)}"
    return "lives" if outcome.passed else "no test ran"


def check(mutants: list[Mutant], copies: list[Copy], show: Callable[[str], None]) -> int:
    """Run all; how many were not noticed."""
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def run(mutant: Mutant) -> int:
        copy = free.get()
        try:
            outcome = copy.run_mutant(mutant)
            if outcome.broken and not outcome.failed:
                # A machine that others use may have been too slow to begin.
                outcome = copy.run_mutant(mutant)
            wrong = verdict(outcome)
        except (Stale, subprocess.TimeoutExpired) as error:
            outcome, wrong = None, str(error)
        finally:
            free.put(copy)
        if wrong:
            tail = "" if outcome is None else "\n" + outcome.output[-3000:]
            show(f"WRONG  {mutant}\n       {wrong}{tail}")
            return 1
        assert outcome is not None
        show(f"ok     {mutant}\n       {outcome.failed[0]}")
        return 0

    with ThreadPoolExecutor(len(copies)) as pool:
        return sum(pool.map(run, mutants))


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="take each rule away and see its test fail")
    parser.add_argument(
        "rules", nargs="*", help="two digits each, or what is wrong then; all without any"
    )
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--list", action="store_true", help="show the mutations only")
    parser.add_argument("--trust", action="store_true", help="skip the run without a mutation")
    chosen = parser.parse_args(arguments)
    mutants = read_tables()
    if chosen.rules:
        mutants = [
            mutant
            for mutant in mutants
            if any(word == mutant.rule or word == mutant.what for word in chosen.rules)
        ]

    def show(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    if chosen.list:
        for mutant in mutants:
            show(f"{mutant.rule}  {mutant.what} ({mutant.path})")
        return 0
    with tempfile.TemporaryDirectory(prefix="headgate-mutants-") as directory:
        jobs = max(1, min(chosen.jobs, len(mutants)))
        copies = [Copy(Path(directory) / str(number)) for number in range(jobs)]
        if not chosen.trust:
            tests = sorted({test for mutant in mutants for test in mutant.tests})
            plain = copies[0].run(tuple(tests))
            if plain.failed or plain.broken or not plain.passed:
                show(f"without any mutation:\n{plain.output[-5000:]}")
                return 1
            show(f"{plain.passed} tests pass without a mutation")
        lives = check(mutants, copies, show)
    show(f"{len(mutants) - lives} of {len(mutants)} mutants noticed")
    return 1 if lives or not mutants else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
