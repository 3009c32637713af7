"""Every transition that exists, and none that does not."""

import pytest

from proxy.plugins.lifecycle import (
    TRANSITIONS,
    DrainTimeout,
    Lifecycle,
    NotActive,
    State,
    UnexpectedTransition,
)

WAY = [
    State.LOADED,
    State.LINKED,
    State.INITIALIZED,
    State.ACTIVE,
    State.DRAINING,
    State.REMOVED,
]


def at(state):
    life = Lifecycle("p")
    life.state = state
    return life


def test_the_whole_way():
    life = Lifecycle("p")
    assert life.state.name == "LOADED"
    for state in WAY[1:4]:
        life.advance(state)
    life.begin_drain()
    assert life.state.name == "DRAINING"
    life.advance(State.REMOVED)
    assert life.state is State.REMOVED


@pytest.mark.parametrize("source", list(State))
@pytest.mark.parametrize("target", list(State))
def test_only_forward(source, target):
    life = at(source)
    if target in TRANSITIONS[source]:
        life.advance(target)
        assert WAY.index(life.state) > WAY.index(source)
        return
    with pytest.raises(UnexpectedTransition) as caught:
        life.advance(target)
    assert caught.value.state is source
    assert caught.value.target is target
    assert source.value in str(caught.value)
    assert life.state is source


@pytest.mark.parametrize("state", [s for s in State if s is not State.ACTIVE])
def test_a_drain_begins_at_active_only(state):
    with pytest.raises(NotActive) as caught:
        at(state).begin_drain()
    assert caught.value.state is state
    assert "expected Active" in str(caught.value)


def test_a_drain_timeout_carries_state_wait_and_count():
    error = DrainTimeout("p", State.DRAINING, 30.0, 3)
    assert (error.state, error.waited_s, error.in_flight) == (State.DRAINING, 30.0, 3)
    assert "30.0 s with 3 in flight" in str(error)
