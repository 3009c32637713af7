"""
Take one measurement: pgbench runs, processor time from /proc, memory, bulk transfers.

Knows nothing of who is measured, only ports and process ids.
"""

import contextlib
import os
import re
import resource
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Final

from proxy.demo.cluster import resident_bytes

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
DATABASE: Final = "bench"


class Run:
    """What one pgbench run showed."""

    def __init__(
        self,
        queries: int,
        tps: float,
        user_us: float,
        kernel_us: float,
        p50_us: float,
        p99_us: float,
        failed: int,
    ) -> None:
        self.queries = queries
        self.tps = tps
        self.user_us = user_us
        """User time of the proxy's processes per query."""
        self.kernel_us = kernel_us
        self.p50_us = p50_us
        self.p99_us = p99_us
        self.failed = failed
        """Transactions that failed or clients that were aborted."""

    @property
    def cpu_us(self) -> float:
        """User and kernel time of the proxy's processes per query."""
        return self.user_us + self.kernel_us


def cpu_ticks(pids: list[int]) -> tuple[int, int]:
    """Sum the user and kernel ticks of processes."""
    user = kernel = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            # The name, in parentheses, may hold spaces.
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            user += int(fields[11])
            kernel += int(fields[12])
    return user, kernel


WARM_UP_S: Final = 0.5


def run_pgbench(
    bin_dir: Path,
    port: int,
    pids: list[int],
    mode: str,
    clients: int,
    seconds: int,
    scratch: Path,
) -> Run:
    """Run `pgbench -S` once, and look at `seconds` in the middle of it.

    What comes before is not counted: connections are made, and a target that has stood still while
    others had the caches gets warm; on machines that take back memory which is not used, its pages too.
    """
    for old in scratch.glob("latency.*"):
        old.unlink()
    with subprocess.Popen(
        [
            str(bin_dir / "pgbench"),
            *("-S", "-n", "-M", mode, "-c", str(clients), "-j", str(min(clients, 2))),
            *("-T", str(seconds + 1), "-h", "127.0.0.1", "-p", str(port), "-U", "postgres"),
            *("-l", "--log-prefix=latency", DATABASE),
        ],
        cwd=scratch,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
    ) as process:
        time.sleep(WARM_UP_S)
        before, started_s = cpu_ticks(pids), time.time()
        time.sleep(seconds)
        after, ended_s = cpu_ticks(pids), time.time()
        output, errors = process.communicate(timeout=seconds + 60)
    done, failed = parse_pgbench(output)
    if process.returncode != 0 and not done:
        raise RuntimeError(f"pgbench failed:\n{errors[-1000:]}")
    latencies = latencies_of_logs(
        sorted(scratch.glob("latency.*")), int(started_s * 1e6), int(ended_s * 1e6)
    )
    per_query = 1e6 / _TICKS_PER_SECOND / max(len(latencies), 1)
    p50_us, p99_us = percentiles(latencies)
    return Run(
        len(latencies),
        len(latencies) / (ended_s - started_s),
        (after[0] - before[0]) * per_query,
        (after[1] - before[1]) * per_query,
        p50_us,
        p99_us,
        failed + errors.count("aborted"),
    )


def parse_pgbench(output: str) -> tuple[int, int]:
    """Read transactions done, and transactions failed."""
    done = re.search(r"number of transactions actually processed: (\d+)", output)
    failed = re.search(r"number of failed transactions: (\d+)", output)
    return int(done[1]) if done else 0, int(failed[1]) if failed else 0


def latencies_of_logs(paths: list[Path], from_us: int, to_us: int) -> list[int]:
    """Read pgbench's transaction logs: latencies in microseconds of what ended in this time."""
    latencies: list[int] = []
    for path in paths:
        with path.open() as lines:
            for line in lines:
                # Client, transaction, latency, script, and when it ended.
                fields = line.split(maxsplit=6)
                ended_us = int(fields[4]) * 1_000_000 + int(fields[5])
                # The latency is "failed" or "skipped" otherwise.
                if from_us <= ended_us < to_us and fields[2].isdigit():
                    latencies.append(int(fields[2]))
    return latencies


def percentiles(latencies: list[int]) -> tuple[float, float]:
    """Take p50 and p99."""
    if not latencies:
        return 0.0, 0.0
    ordered = sorted(latencies)
    last = len(ordered) - 1
    return float(ordered[last // 2]), float(ordered[last * 99 // 100])


def idle_client_bytes(port: int, pids: list[int], count: int) -> tuple[int, float]:
    """Open idle clients; how many were let in, and the proxy's growth for each in bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(count, hard - 200)
    sockets: list[socket.socket] = []
    try:
        _login_many(port, 50, sockets)  # so that what is made once for all is there
        before = sum(map(resident_bytes, pids))
        _login_many(port, count, sockets)
        after = sum(map(resident_bytes, pids))
        return count, (after - before) / max(count, 1)
    finally:
        for opened in sockets:
            opened.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def bulk_copy(bin_dir: Path, port: int, pids: list[int], mebibytes: int) -> tuple[float, int]:
    """Copy rows out; mebibytes a second, and the proxy's greatest growth in bytes."""
    rows = mebibytes * 1024
    before = sum(map(resident_bytes, pids))
    peak = before
    started = time.perf_counter()
    with subprocess.Popen(
        [
            str(bin_dir / "psql"),
            *("-X", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-d", DATABASE),
            "-c",
            f"COPY (SELECT repeat('x', 1023) FROM generate_series(1, {rows})) TO STDOUT",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
    ) as psql:
        while psql.poll() is None:
            peak = max(peak, sum(map(resident_bytes, pids)))
            time.sleep(0.02)
        assert psql.stderr is not None
        if psql.returncode != 0:
            raise RuntimeError(f"psql failed: {psql.stderr.read().decode()[-500:]}")
    return mebibytes / (time.perf_counter() - started), peak - before


def _login_many(port: int, count: int, into: list[socket.socket]) -> None:
    """Log clients in one by one; those that came in are in `into` also when one is refused."""
    into.extend(_login(port) for _ in range(count))


def _login(port: int) -> socket.socket:
    """Log in as a client that sends nothing more."""
    opened = socket.create_connection(("127.0.0.1", port), timeout=10)
    parameters = b"user\0postgres\0database\0" + DATABASE.encode() + b"\0\0"
    opened.sendall(struct.pack("!II", 8 + len(parameters), 3 << 16) + parameters)
    received = b""
    while not received.endswith(b"Z\0\0\0\x05I"):
        chunk = opened.recv(4096)
        if not chunk:
            raise RuntimeError(f"login refused: {received[-200:]!r}")
        received += chunk
    return opened
