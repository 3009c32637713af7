"""
`headgate plugin …`: the plugin author's loop, and keys and signatures.

Arguments, output and exit codes; what is done is in `proxy.plugins.author` and
`proxy.plugins.signature`. Exit 0 means it held, 1 that the plugin failed, 2 that the command was
wrong.
"""

import asyncio
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from proxy.errors import PluginFailed
from proxy.hooks.points import HOOK_NAMES, PRE_QUERY
from proxy.plugins.author import build as building
from proxy.plugins.author.cases import Case, Result, read_cases, run_case
from proxy.plugins.author.harness import Called, Harness
from proxy.plugins.author.pack import pack as make_archive
from proxy.plugins.author.scaffold import LANGUAGES, scaffold
from proxy.plugins.limits import MAX_MODULE_BYTES
from proxy.plugins.loader import Source, read_source
from proxy.plugins.manifest import parse_hook
from proxy.plugins.signature import (
    Revocations,
    SignatureRefused,
    generate_key,
    parse_private_key,
    read_revocations,
    read_trust_root,
    sign_legacy,
)
from proxy.plugins.signature import sign as make_signature
from proxy.plugins.signature import verify as verify_signature

app = typer.Typer(
    help="Make, test, sign and pack plugins.", no_args_is_help=True, add_completion=False
)

T = TypeVar("T")

FAILED: Final = 1
WRONG: Final = 2

ModuleArgument = Annotated[Path, typer.Argument(metavar="MODULE", help="The plugin's .wasm file.")]
HookOption = Annotated[str, typer.Option("--hook", help="The hook to call.")]
SqlOption = Annotated[str, typer.Option("--sql", help="The statement to call it with.")]
GrantOption = Annotated[
    list[str] | None,
    typer.Option("--grant", help="Grant this only; without it all that the manifest asks for."),
]


def _fail(message: str, code: int = FAILED) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(code)


def _hook(name: str) -> int:
    hook = parse_hook(name)
    if hook is None:
        raise _fail(f"unknown hook {name!r}; expected one of {', '.join(HOOK_NAMES)}", WRONG)
    return hook


def _source(module: Path) -> Source:
    try:
        return read_source(module, MAX_MODULE_BYTES, MAX_MODULE_BYTES)
    except PluginFailed as failed:
        raise _fail(failed.message) from None


def _grants(grant: list[str] | None) -> tuple[str, ...] | None:
    return tuple(grant) if grant else None


# Keys and signatures.


@app.command()
def keygen(
    name: Annotated[str, typer.Argument(help="Files NAME.key and NAME.pub are written.")],
    directory: Annotated[Path, typer.Option("--dir", help="Where to.")] = Path(),
) -> None:
    """Make a key pair for signing: keep NAME.key, put NAME.pub into the trust root."""
    private, public, key_id = generate_key()
    key_path, pub_path = directory / f"{name}.key", directory / f"{name}.pub"
    try:
        handle = os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(private)
        with pub_path.open("xb") as file:
            file.write(public)
    except OSError as error:
        raise _fail(f"{error.filename}: {error.strerror}", WRONG) from None
    typer.echo(f"{key_path}: private key, keep it secret\n{pub_path}: public key {key_id}")


@app.command()
def sign(
    module: ModuleArgument,
    key: Annotated[Path, typer.Option("--key", help="Private key of `keygen`.")],
    days: Annotated[int, typer.Option("--days", min=1, help="How long it is valid.")] = 365,
    legacy: Annotated[
        bool, typer.Option("--legacy", help="The ABI 0 form, which covers the module alone.")
    ] = False,
) -> None:
    """Sign a module and its manifest: writes MODULE's .sig."""
    from proxy.plugins.check import abi_of

    source = _source(module)
    try:
        private = parse_private_key(key.read_bytes(), str(key))
        now = datetime.now(UTC)
        if legacy:
            content = sign_legacy(private, source.wasm)
        else:
            content = make_signature(
                private,
                source.manifest.name,
                source.manifest.version,
                abi_of(source),
                source.wasm,
                source.manifest_bytes,
                now - timedelta(minutes=5),
                now + timedelta(days=days),
            )
        target = module.with_suffix(".sig")
        target.write_bytes(content)
    except OSError as error:
        raise _fail(f"{error.filename}: {error.strerror}", WRONG) from None
    except (SignatureRefused, PluginFailed) as refused:
        raise _fail(str(refused)) from None
    typer.echo(f"{target}: signed {source.manifest.name} {source.manifest.version}")


@app.command()
def verify(
    module: ModuleArgument,
    trust_root: Annotated[Path, typer.Option("--trust-root", help="Directory of *.pub files.")],
    revocations: Annotated[
        Path | None, typer.Option("--revocations", help="List of revoked key ids and hashes.")
    ] = None,
    allow_legacy: Annotated[
        bool, typer.Option("--allow-legacy", help="Accept the ABI 0 form.")
    ] = False,
) -> None:
    """Check a module's signature as the proxy would."""
    source = _source(module)
    if source.signature is None:
        raise _fail(f"{module}: no signature; expected {module.with_suffix('.sig').name} beside it")
    try:
        revoked = read_revocations(revocations) if revocations is not None else Revocations()
        if source.wasm_sha256 in revoked.modules:
            raise SignatureRefused(f"module {source.wasm_sha256} is revoked")
        verdict = verify_signature(
            read_trust_root(trust_root),
            revoked,
            source.signature,
            source.manifest.name,
            source.manifest.version,
            source.wasm,
            source.wasm_sha256,
            source.manifest_sha256,
            datetime.now(UTC),
            allow_legacy,
        )
    except SignatureRefused as refused:
        raise _fail(f"{module}: {refused}") from None
    typer.echo(f"{module}: signed by {verdict.label} (key {verdict.key_id})")


# The author's loop.


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the plugin, and of its directory.")],
    lang: Annotated[str, typer.Option("--lang", help=" | ".join(LANGUAGES))] = "c",
) -> None:
    """Start a plugin: source, manifest and test cases."""
    if lang not in LANGUAGES:
        raise _fail(f"unknown language {lang!r}; expected {', '.join(LANGUAGES)}", WRONG)
    try:
        written = scaffold(Path(name), Path(name).name, lang)
    except FileExistsError:
        raise _fail(f"{name} is there already", WRONG) from None
    except ValueError as error:
        raise _fail(str(error), WRONG) from None
    for path in written:
        typer.echo(f"wrote {path}")
    typer.echo(f"next: headgate plugin build {name} && headgate plugin test {name}/{name}.wasm")


@app.command()
def build(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The plugin's sources.")],
) -> None:
    """Build a plugin's module with the tools of its language."""
    typer.echo(f"built {_build(directory)}")


def _build(directory: Path) -> Path:
    try:
        return building.build(directory)
    except building.BuildFailed as failed:
        raise _fail(str(failed)) from None


@app.command()
def check(module: ModuleArgument, grant: GrantOption = None) -> None:
    """Load a plugin as the proxy would, and say what it is and asks for."""
    source = _source(module)

    async def look() -> dict[str, object]:
        async with Harness(module, _grants(grant)) as harness:
            return harness.manager.get(harness.name)

    try:
        shown = asyncio.run(look())
    except PluginFailed as failed:
        raise _fail(f"{failed.cause}: {failed.message}") from None
    shown.pop("hook_stats", None)
    typer.echo(json.dumps(shown, indent=2, ensure_ascii=False, default=str))
    if source.signature is None:
        typer.echo("note: not signed", err=True)


@app.command()
def run(
    module: ModuleArgument,
    sql: SqlOption = "SELECT 1",
    hook: HookOption = "pre_query",
    input_file: Annotated[
        Path | None, typer.Option("--input", help="A file with the hook's input as it is.")
    ] = None,
    grant: GrantOption = None,
) -> None:
    """Call a hook once and show what came of it."""
    number = _hook(hook)

    async def once() -> Called:
        async with Harness(module, _grants(grant)) as harness:
            if input_file is not None:
                return await harness.call_raw(
                    number, await asyncio.to_thread(input_file.read_bytes)
                )
            return await harness.call(number, sql)

    called = _attempt(once)
    _show(called)
    if called.action == "failed":
        raise typer.Exit(FAILED)


def _attempt(once: Callable[[], Coroutine[Any, Any, T]]) -> T:
    try:
        return asyncio.run(once())
    except PluginFailed as failed:
        raise _fail(f"{failed.cause}: {failed.message}") from None
    except (OSError, LookupError, ValueError) as error:
        raise _fail(str(error), WRONG) from None


def _show(called: Called) -> None:
    typer.echo(f"{called.hook}: {called.action}")
    if called.cause:
        typer.echo(f"  cause: {called.cause}: {called.message}")
    if called.answer is not None:
        typer.echo(f"  answer: {json.dumps(called.answer, ensure_ascii=False)}")
    typer.echo(f"  {called.duration_us} us, {called.fuel} fuel")
    for line in called.logs:
        typer.echo(f"  log {line}")


@app.command("test")
def check_cases(
    module: ModuleArgument,
    cases: Annotated[
        Path | None, typer.Option("--cases", help="[default: MODULE's .cases.json]")
    ] = None,
    grant: GrantOption = None,
) -> None:
    """Run a plugin's test cases; exit 1 if any fails."""
    path = cases or module.with_suffix(".cases.json")
    try:
        wanted = read_cases(path)
    except (OSError, ValueError) as error:
        raise _fail(str(error), WRONG) from None
    results = _attempt(lambda: _run_cases(module, wanted, grant))
    failed = [result for result in results if result.problem]
    for result in results:
        typer.echo(f"{'FAIL' if result.problem else 'ok  '} {result.case.name}")
        if result.problem:
            typer.echo(f"     {result.problem}")
    typer.echo(f"{len(results) - len(failed)} of {len(results)} held")
    if failed:
        raise typer.Exit(FAILED)


async def _run_cases(module: Path, cases: list[Case], grant: list[str] | None) -> list[Result]:
    async with Harness(module, _grants(grant)) as harness:
        return [await run_case(harness, case) for case in cases]


@app.command()
def bench(
    module: ModuleArgument,
    sql: SqlOption = "SELECT 1",
    hook: HookOption = "pre_query",
    calls: Annotated[int, typer.Option("--calls", min=1, max=10_000_000)] = 100_000,
) -> None:
    """Measure what a call costs, with limits, statistics and timing as in the proxy."""
    number = _hook(hook)

    async def measure() -> tuple[float, float]:
        async with Harness(module) as harness:
            subscriber = harness.subscriber(number)
            payload = harness.envelope(number, sql)
            if subscriber.is_slow:
                raise ValueError(f"{hook} of this plugin runs on worker threads")
            best = float("inf")
            part = max(1, calls // 5)
            for _ in range(5):
                started = time.perf_counter()
                for _ in range(part):
                    subscriber.call(payload)
                best = min(best, (time.perf_counter() - started) / part)
            return best * 1e6, subscriber.stats.fuel / subscriber.stats.calls

    cost_us, fuel = _attempt(measure)
    typer.echo(f"{hook}: {cost_us:.2f} us a call, {fuel:.0f} fuel")


@app.command()
def replay(
    module: ModuleArgument,
    statements: Annotated[Path, typer.Argument(metavar="FILE", help="SQL, one statement a line.")],
    hook: HookOption = "pre_query",
) -> None:
    """Call a hook with each statement of a file, and count what it would have done."""
    number = _hook(hook)

    async def all_of_them() -> Counter[str]:
        counts: Counter[str] = Counter()
        text = await asyncio.to_thread(statements.read_text, "utf-8")
        async with Harness(module) as harness:
            for line in text.splitlines():
                if line.strip():
                    called = await harness.call(number, line)
                    counts[called.action] += 1
                    if called.action not in ("continue", "filtered", "default", "allow"):
                        typer.echo(f"{called.action}: {line[:100]}")
        return counts

    counts = _attempt(all_of_them)
    typer.echo(", ".join(f"{action}: {count}" for action, count in sorted(counts.items())))


@app.command()
def dev(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The plugin's sources.")],
    once: Annotated[bool, typer.Option("--once", help="One round, then end.")] = False,
) -> None:
    """Build and test at every change of the sources, until Ctrl-C."""
    from watchfiles import watch

    _round(directory)
    if once:
        return
    typer.echo(f"watching {directory}; Ctrl-C ends")
    for changes in watch(directory, raise_interrupt=False):
        if any(not path.endswith((".wasm", ".sig")) for _, path in changes):
            _round(directory)


def _round(directory: Path) -> None:
    """Build and test; what goes wrong is shown, and the loop goes on."""
    started = time.monotonic()
    try:
        module = _build(directory)
        digest = hashlib.sha256(module.read_bytes()).hexdigest()[:12]
        typer.echo(f"built {module.name} {digest} in {time.monotonic() - started:.1f} s")
        cases = module.with_suffix(".cases.json")
        if cases.is_file():
            check_cases(module, cases, None)
        else:
            run(module, "SELECT 1", HOOK_NAMES[PRE_QUERY], None, None)
    except typer.Exit:
        typer.echo("waiting for a change")


@app.command()
def pack(
    module: ModuleArgument,
    directory: Annotated[Path, typer.Option("--dir", help="Where to.")] = Path(),
) -> None:
    """Write module, manifest and signature into one archive."""
    try:
        typer.echo(f"packed {make_archive(module, directory)}")
    except PluginFailed as failed:
        raise _fail(failed.message) from None
    except OSError as error:
        raise _fail(f"{error.filename}: {error.strerror}", WRONG) from None
