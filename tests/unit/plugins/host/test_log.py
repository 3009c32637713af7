"""Plugin logs: one line each, bounded in length, number and rate; followed."""

import logging

from proxy.plugins.host.log import PluginLog, PluginLogs


def test_a_line_is_one_line(caplog):
    caplog.set_level(logging.INFO, "headgate.plugins")
    log = PluginLog("p")
    assert log.write(3, "a\r\nb\0c")
    assert [(x.level, x.text, x.number) for x in log.lines] == [("warn", "a  bc", 1)]
    assert "a  bc" in caplog.text
    log.write(2, "\x1b[2Jq\x9b1m\u2028z\té")
    assert log.lines[-1].text == " [2Jq 1m z\té"
    log.write(99, "x")
    assert log.lines[-1].level == "info"


def test_rate_and_ring(monkeypatch):
    now = 1000.0
    monkeypatch.setattr("proxy.plugins.host.log.time.time", lambda: now)
    log = PluginLog("p")
    log.lines_per_second = 3
    assert [log.write(2, str(n)) for n in range(5)] == [True, True, True, False, False]
    assert (log.written, log.dropped) == (3, 2)
    now = 1001.0
    assert log.write(2, "next second")
    log.lines_per_second = 10_000
    for number in range(1000):
        log.write(2, str(number))
    assert len(log.lines) == 500
    assert [x.text for x in log.last(2)] == ["998", "999"]
    assert log.last(0) == []


def test_followers_are_told_until_they_leave():
    log = PluginLog("p")
    seen = []
    unfollow = log.follow(lambda line: seen.append(line.text))
    log.write(2, "a")
    unfollow()
    unfollow()
    log.write(2, "b")
    assert seen == ["a"]


def test_each_plugin_has_its_own():
    logs = PluginLogs()
    logs.of("a").write(2, "x")
    assert logs.of("a") is logs.of("a")
    assert not logs.of("b").lines
    assert len(logs.all()) == 2
    logs.forget("a")
    assert not logs.of("a").lines
