"""When the breaker opens, for how long, and what closes it."""

from proxy.plugins.breaker import CLOSED, HALF_OPEN, OPEN, Breaker


def opened(at=0.0):
    breaker = Breaker()
    for number in range(5):
        breaker.failed(at + number)
    return breaker


def test_it_opens_after_five_failures_within_thirty_seconds():
    breaker = Breaker()
    for number in range(4):
        breaker.failed(float(number))
        assert breaker.state == CLOSED
    breaker.failed(29.9)
    assert breaker.state == OPEN
    assert breaker.opened == 1


def test_failures_far_apart_do_not_open_it():
    breaker = Breaker()
    for number in range(20):
        breaker.failed(number * 8.0)
    assert breaker.state == CLOSED


def test_one_trial_call_after_a_second():
    breaker = opened(100.0)
    assert not breaker.allows(104.5)
    assert breaker.allows(105.0)
    assert breaker.state == HALF_OPEN
    assert not breaker.allows(105.0)
    breaker.succeeded()
    assert breaker.state == CLOSED
    assert breaker.allows(105.1)


def test_the_pause_doubles_up_to_a_minute():
    breaker = opened()
    now, pauses = 4.0, []
    for _ in range(9):
        pause = 0.5
        while not breaker.allows(now + pause):
            pause += 0.5
        pauses.append(pause)
        now += pause
        breaker.failed(now)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_success_forgets_everything():
    breaker = opened()
    assert breaker.allows(5.0)
    breaker.succeeded()
    for number in range(4):
        breaker.failed(6.0 + number)
    assert breaker.state == CLOSED


def test_a_relapse_opens_it_again_at_once():
    breaker = opened()
    breaker.allows(5.0)
    breaker.succeeded()
    breaker.relapse()
    breaker.failed(5.0)
    assert breaker.state == OPEN
    breaker.relapse()
    assert breaker.state == OPEN
