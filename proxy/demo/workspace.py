"""
A temporary directory that cleans up after itself, whatever way this process ends.

`Workspace` is where the embedded servers live: their data, sockets and logs. A small guard
process waits on a pipe that only this process holds open. When this process is gone, even
by SIGKILL, the pipe closes, and the guard ends what was started and removes the directory.
A parent-death signal would be the other way, but the kernel ties that to the *thread* that
started the child, and it cannot remove a directory.

PostgreSQL refuses to run as root, so `server_account` names the user that servers run as
then. No user is made for that: one that is there is taken.

This module does not know what is started, nor how PostgreSQL is run.
"""

import atexit
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO, final

_PROBE_PROGRAM = "postgres"
_ACCOUNTS_TO_TRY = ("pgserver", "postgres", "nobody")

# SAFETY: the pids are read from files that only this process's user can write, never from
# files of the server's user, because the guard may signal any process when it is root.
_GUARD_SCRIPT = """
trap '' INT TERM HUP QUIT
cat >/dev/null
signalled=0
for file in "$1"/pids/*; do
    [ -e "$file" ] && kill -QUIT "${file##*/}" 2>/dev/null && signalled=1
done
tries=0
while [ $signalled = 1 ] && [ $tries -lt 50 ]; do
    signalled=0
    for file in "$1"/pids/*; do
        [ -e "$file" ] && kill -0 "${file##*/}" 2>/dev/null && signalled=1
    done
    tries=$((tries + 1))
    [ $signalled = 1 ] && sleep 0.1
done
for file in "$1"/pids/*; do
    [ -e "$file" ] && kill -KILL "${file##*/}" 2>/dev/null
done
rm -rf -- "$1"
"""


@final
class Account:
    """A user of this system that a server runs as; None everywhere when that is oneself."""

    __slots__ = ("gid", "name", "uid")

    def __init__(self, name: str, uid: int, gid: int) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid


def server_account() -> Account | None:
    """Name the user that servers run as: None for this one, another when this one is root."""
    if os.geteuid() != 0:
        return None
    for name in _ACCOUNTS_TO_TRY:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise RuntimeError(
        "PostgreSQL does not run as root, and none of the users "
        f"{', '.join(_ACCOUNTS_TO_TRY)} exists: make one of them, or run as an ordinary user"
    )


@final
class Workspace:
    """A temporary directory and the processes that were started in it."""

    def __init__(self, prefix: str = "headgate-") -> None:
        self.account = server_account()
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=_short_directory()))
        # The servers' user has to pass through; what needs hiding has its own mode below.
        self.path.chmod(0o755)
        (self.path / "pids").mkdir(mode=0o700)
        self._owner_pid = os.getpid()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD_SCRIPT, "headgate-guard", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        atexit.register(self.close)
        if not self._runs('cd "$1"', self.path):
            self.close()
            raise RuntimeError(
                f"user {self.account.name if self.account else '?'!r} cannot enter {self.path}: "
                "set TMPDIR to a directory that every user can enter"
            )

    def __enter__(self) -> "Workspace":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def make_private_directory(self, name: str) -> Path:
        """Make a directory below that belongs to the servers' user alone."""
        path = self.path / name
        path.mkdir(parents=True, mode=0o700)
        self.give(path)
        return path

    def give(self, path: Path) -> None:
        """Hand a file or directory to the servers' user."""
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid)

    def readable_program_tree(self, bin_dir: Path) -> Path:
        """Give a bin directory that the servers' user can use: the same, or a copy here.

        A virtual environment below root's home is closed to others. Copying 30 MB takes a
        blink; opening up the directories above it would outlive this process.
        """
        if self._runs(f'"$1"/{_PROBE_PROGRAM} --version', bin_dir):
            return bin_dir
        copy = self.path / f"programs-{bin_dir.parent.name}"
        if not copy.exists():
            for part in ("bin", "lib", "share"):
                shutil.copytree(bin_dir.parent / part, copy / part, symlinks=True)
            for folder, _, _ in os.walk(copy):
                Path(folder).chmod(0o755)
        return copy / bin_dir.name

    def run(self, command: list[str], timeout_s: float = 60.0) -> str:
        """Run a program as the servers' user to its end; its output, or RuntimeError with it."""
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.path,
            env=_plain_environment(),
            timeout=timeout_s,
            check=False,
            text=True,
            user=self.account.uid if self.account else None,
            group=self.account.gid if self.account else None,
            extra_groups=[] if self.account else None,
        )
        if done.returncode != 0:
            raise RuntimeError(
                f"{Path(command[0]).name} failed with exit code {done.returncode}:\n{done.stdout}"
            )
        return done.stdout

    def spawn(
        self,
        command: list[str],
        output: IO[bytes],
        environment: dict[str, str] | None = None,
        as_account: bool = True,
        standard_output: int | None = None,
    ) -> "subprocess.Popen[bytes]":
        """Start a program that the guard ends should this process die first.

        It gets a session of its own, so that a Ctrl-C in the terminal reaches this process
        alone and things end in order.
        """
        account = self.account if as_account else None
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output if standard_output is None else standard_output,
            stderr=output,
            cwd=self.path,
            env=_plain_environment() if environment is None else environment,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
        (self.path / "pids" / str(process.pid)).touch()
        self._processes[process.pid] = process
        return process

    def forget(self, process: "subprocess.Popen[bytes]") -> None:
        """Take a process that has ended off the guard's list."""
        self._processes.pop(process.pid, None)
        (self.path / "pids" / str(process.pid)).unlink(missing_ok=True)

    def close(self) -> None:
        """End what still runs, and remove the directory. May be called again."""
        if os.getpid() != self._owner_pid:
            return  # a forked child runs the same atexit list; the servers are not its own
        atexit.unregister(self.close)
        running = [process for process in self._processes.values() if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGQUIT)
        for process in running:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for process in list(self._processes.values()):
            self.forget(process)
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            self._guard.stdin.close()
        try:
            self._guard.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
            shutil.rmtree(self.path, ignore_errors=True)

    def _runs(self, script: str, argument: Path) -> bool:
        """Tell whether a line of shell succeeds as the servers' user."""
        if self.account is None:
            return True
        probe = subprocess.run(
            ["/bin/sh", "-c", script, "sh", argument],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            user=self.account.uid,
            group=self.account.gid,
            extra_groups=[],
        )
        return probe.returncode == 0


def _short_directory() -> str:
    """Choose where temporary files go: a Unix socket's path may have 107 bytes (103 on macOS)."""
    directory = tempfile.gettempdir()
    # Below it come the workspace's name, a server's socket directory and the socket.
    if len(os.fsencode(directory)) > 40 and os.access("/tmp", os.W_OK | os.X_OK):
        return "/tmp"
    return directory


def _plain_environment() -> dict[str, str]:
    """Build an environment without PG… variables, which would change what a server does."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
