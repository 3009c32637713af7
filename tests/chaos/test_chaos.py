"""
Cuts, delays, slices, duplicates and kills under checked traffic: nothing lost, nothing mixed up.

Short in the suite; `make chaos` runs it for HEADGATE_CHAOS_SECONDS.
"""

import contextlib
import os
import random
import time

import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace
from tests.support.bank import TABLES, Noise, Teller, audit
from tests.support.chaos import ChaosRelay, Weather
from tests.support.sessions import few_connections
from tests.support.system import wait_until

LONG_SECONDS = float(os.environ.get("HEADGATE_CHAOS_SECONDS", "120"))
TELLERS = 6


def run_chaos(
    workspace: Workspace,
    primary: EmbeddedPostgres,
    standby: EmbeddedStandby | None,
    seconds: float,
    mode: str,
) -> None:
    seed = random.randrange(10**9)
    dice = random.Random(seed)
    primary.execute(TABLES)
    if standby is not None:
        standby.wait_until_caught_up()
    with (
        ChaosRelay(primary.port, seed) as to_server,
        contextlib.ExitStack() as stack,
    ):

        class Behind:
            """The primary, through the relay."""

            port = to_server.port

        factory = few_connections(workspace, Behind(), standby, f"chaos-{mode}-{seed}", 4)  # type: ignore[arg-type]
        stack.callback(factory.close)
        gate = factory(
            pool={
                "mode": mode,
                "size": TELLERS + 4 if mode == "session" else 4,
                "wait_timeout": "10s",
                "connect_timeout": "2s",
            },
            log={"level": "info", "format": "json"},
        )
        to_clients = stack.enter_context(ChaosRelay(gate.port, seed + 1))
        to_noise = stack.enter_context(ChaosRelay(gate.port, seed + 2))
        to_noise.weather = Weather(cut=0.01, slice=0.1, duplicate=0.1)
        deadline_s = time.monotonic() + seconds
        dsn = gate.dsn(port=to_clients.port)
        tellers = [Teller(dsn, f"t{n}", seed, deadline_s) for n in range(TELLERS)]
        noise = [Noise(gate.dsn(port=to_noise.port), deadline_s) for _ in range(2)]
        for thread in (*tellers, *noise):
            thread.start()
        to_clients.weather = Weather(cut=0.001, delay=0.02, slice=0.05)
        to_server.weather = Weather(cut=0.0005, delay=0.02, slice=0.05)
        with psycopg.connect(primary.dsn(), autocommit=True) as direct:
            while time.monotonic() < deadline_s:
                time.sleep(dice.random())
                event = dice.randrange(4)
                if event == 0:
                    to_clients.cut_all()
                elif event == 1:
                    to_server.cut_all()
                elif event == 2:
                    direct.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                        " ORDER BY random() LIMIT 2"
                    )
            to_clients.weather = to_server.weather = to_noise.weather = Weather()
            for thread in (*tellers, *noise):
                thread.join(40)
                assert not thread.is_alive(), f"{thread.name} hangs (seed {seed})"
            assert audit(direct, tellers) == [], f"seed {seed}"
            assert sum(len(teller.committed) for teller in tellers) > seconds
            assert sum(teller.checks for teller in tellers) > seconds
            # Afterwards everybody is served at once, and nothing is left over.
            with gate.connect() as client:
                assert client.execute("SELECT 1").fetchone() == (1,)
            wait_until(
                lambda: gate.metrics().value("headgate_client_connections") == 0, 10, "clients gone"
            )
            wait_until(
                lambda: (
                    direct.execute(
                        "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
                    ).fetchone()
                    == (0,)
                ),
                10,
                "no transaction is left open",
            )
        log = gate.log_text()
        assert "Traceback" not in log
        assert '"level": "error"' not in log


@pytest.mark.timeout(90)
def test_nothing_is_lost_or_mixed_up(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> None:
    run_chaos(workspace, primary, standby, 6, "transaction")


@pytest.mark.chaos
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_chaos_for_long(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby, mode: str
) -> None:
    run_chaos(workspace, primary, standby, LONG_SECONDS / 2, mode)
