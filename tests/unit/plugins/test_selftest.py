"""The proof at start, and that it is one: a clock that does not tick is found out."""

from typing import cast

import pytest

from proxy.errors import PluginFailed
from proxy.plugins import selftest
from proxy.plugins.runtime import Runtime, runtime


def test_both_ways_of_stopping_work_here():
    selftest.self_test(runtime())


class Dead:
    """A runtime whose clock does not tick."""

    class ticker:
        @staticmethod
        def start():
            pass

    def __init__(self):
        self.engine = runtime().engine


def test_a_dead_clock_is_found(monkeypatch):
    runtime().ticker.stop()
    monkeypatch.setattr(selftest, "_BACKSTOP_FUEL", 20_000_000)
    with pytest.raises(PluginFailed, match="was to be stopped by timeout, and was by fuel"):
        selftest.self_test(cast(Runtime, Dead()))
    runtime().ticker.start()
