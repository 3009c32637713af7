"""
Random scripts of messages are answered by the proxy as by a server, frame by frame.

In transaction mode another client is in the way, so that statements run on changing connections.
"""

import random
from collections.abc import Iterator

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from proxy.demo.cluster import EmbeddedPostgres
from proxy.demo.workspace import Workspace
from tests.support.fuzzing import assert_well, for_some_time
from tests.support.scripts import Writer
from tests.support.sessions import few_connections
from tests.system.traces import Comparison


def compared(workspace: Workspace, primary: EmbeddedPostgres, mode: str) -> Iterator[Comparison]:
    factory = few_connections(
        workspace, primary, None, f"traces-{mode}", 2 if mode == "transaction" else 3
    )
    proxy = factory(pool={"mode": mode}, log={"level": "info"})
    comparison = Comparison(primary, proxy)
    comparison.prepare()
    yield comparison
    comparison.close()
    factory.close()


@pytest.fixture(scope="module", params=["transaction", "session"])
def both(
    workspace: Workspace, primary: EmbeddedPostgres, request: pytest.FixtureRequest
) -> Iterator[Comparison]:
    yield from compared(workspace, primary, request.param)


def play(both: Comparison, dice: random.Random) -> None:
    script = Writer(dice).script()
    try:
        both.same(script)
    except AssertionError as failure:
        raise both.shortest(script, failure) from None


# What fails is made shorter by `play` itself.
@settings(max_examples=30, derandomize=True, phases=(Phase.generate,))
@given(seed=st.integers(0, 2**48))
def test_random_scripts(both: Comparison, seed: int) -> None:
    play(both, random.Random(seed))


def test_the_proxy_is_well_afterwards(both: Comparison) -> None:
    assert_well(both.proxy)


@pytest.mark.fuzz
def test_scripts_for_long(both: Comparison) -> None:
    for_some_time(both.proxy, lambda dice: play(both, dice))
