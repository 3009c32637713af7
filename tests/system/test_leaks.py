"""
Rule 20: nothing of one client's session is ever seen by the next.

Thousands of random sessions over few server connections; HEADGATE_LEAK_SECONDS makes it longer.
"""

import os
import random

import pytest

from proxy.demo.cluster import EmbeddedPostgres
from proxy.demo.workspace import Workspace
from tests.support.leaks import LOOK, OBJECTS, run_sessions
from tests.support.sessions import few_connections
from tests.support.system import wait_until
from tests.support.wire import RawClient, rows

SECONDS = float(os.environ.get("HEADGATE_LEAK_SECONDS", "12"))
SIZE = 4


@pytest.mark.timeout(SECONDS + 90)
def test_rule_20_random_sessions_see_nothing_of_each_other(
    workspace: Workspace, primary: EmbeddedPostgres
) -> None:
    primary.execute(OBJECTS)
    seed = random.randrange(1_000_000)
    factory = few_connections(workspace, primary, None, "leaks", SIZE)
    try:
        gate = factory()
        count, problems = run_sessions(gate.port, seed, SECONDS)
        assert problems == []
        assert count > SECONDS * 5, "sessions must be many for this to mean anything"
        # All server connections at once, from outside.
        watchers = [RawClient(gate.port) for _ in range(SIZE)]
        for watcher in watchers:
            watcher.login()
            watcher.query("BEGIN")
            assert rows(watcher.query(LOOK)) == []
        for watcher in watchers:
            watcher.close()
        wait_until(
            lambda: gate.metrics().value("headgate_client_connections") == 0, 10, "clients gone"
        )
        errors = [line for line in gate.log_text().splitlines() if '"level": "error"' in line]
        assert errors == []
    finally:
        factory.close()
