"""Events are kept, counted and told once."""

import logging

from proxy.plugins.events import DRAIN_TIMEOUT, FAILED, LOADED, REPLACED, Events


def test_events(caplog):
    caplog.set_level(logging.INFO, "headgate.plugins")
    events = Events()
    events.add(LOADED, "p", new_version="1.0.0", new_hash="abc")
    events.add(
        REPLACED, "p", old_version="1.0.0", new_version="1.1.0", old_hash="abc", new_hash="def",
        generation=2,
    )  # fmt: skip
    events.add(FAILED, "p", cause="module", message="p.wasm: broken")
    assert [e.kind for e in events.last] == [LOADED, REPLACED, FAILED]
    assert events.counts[FAILED] == 1
    assert events.counts[DRAIN_TIMEOUT] == 0
    assert "replaced 1.0.0 abc by 1.1.0 def, generation 2" in caplog.text
    assert "p.wasm: broken" in caplog.text
    assert events.last[2].as_dict()["cause"] == "module"


def test_they_are_bounded():
    events = Events()
    for _ in range(1000):
        events.add(LOADED, "p")
    assert len(events.last) == 200
    assert events.counts[LOADED] == 1000
