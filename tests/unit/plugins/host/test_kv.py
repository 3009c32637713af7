"""The key-value store: one suite for the store of a process and the one that processes share."""

import subprocess
import sys
import time

import pytest

from proxy.plugins.host.guest import BAD_ARGUMENT, TOO_LARGE, HostFault
from proxy.plugins.host.kv import MAX_COUNTER, KvBounds, LocalKv, counted
from proxy.plugins.host.kv_shared import SharedKv

BOUNDS = KvBounds(key_bytes=8, value_bytes=100, plugin_keys=5, total_bytes=400)


@pytest.fixture(params=["local", "shared"])
def store(request, tmp_path):
    found = LocalKv(BOUNDS) if request.param == "local" else SharedKv(tmp_path / "kv", BOUNDS)
    yield found
    found.close()


def code_of(call, *arguments):
    with pytest.raises(HostFault) as caught:
        call(*arguments)
    return caught.value.code


def test_set_get_delete(store):
    assert store.get("p", b"k") is None
    store.set("p", b"k", b"v")
    store.set("p", b"k", b"w")
    assert store.get("p", b"k") == b"w"
    assert store.get("q", b"k") is None
    assert store.delete("p", b"k")
    assert not store.delete("p", b"k")
    assert store.get("p", b"k") is None


def test_counters(store):
    assert store.incr("p", b"n", 5) == 5
    assert store.incr("p", b"n", -7) == -2
    assert store.get("p", b"n") == b"-2"
    store.set("p", b"x", b"abc")
    assert code_of(store.incr, "p", b"x", 1) == BAD_ARGUMENT
    assert store.get("p", b"x") == b"abc"
    assert store.incr("p", b"m", MAX_COUNTER) == MAX_COUNTER
    assert code_of(store.incr, "p", b"m", 1) == BAD_ARGUMENT
    assert store.get("p", b"m") == b"%d" % MAX_COUNTER


def test_times_to_live(store):
    store.set("p", b"k", b"v", 40)
    store.set("p", b"keep", b"v", 0)
    assert store.incr("p", b"n", 1, 40) == 1
    # A later addition does not move the end of the window.
    assert store.incr("p", b"n", 1, 60_000) == 2
    assert store.keys("p", b"") == [b"k", b"keep", b"n"]
    time.sleep(0.06)
    assert store.get("p", b"k") is None
    assert store.incr("p", b"n", 1) == 1
    assert store.keys("p", b"") == [b"keep", b"n"]


def test_keys_by_prefix(store):
    for key in (b"a1", b"a2", b"b1", b"\xff\x01"):
        store.set("p", key, b"v")
    store.set("q", b"a3", b"v")
    assert store.keys("p", b"a") == [b"a1", b"a2"]
    assert store.keys("p", b"\xff") == [b"\xff\x01"]
    assert store.keys("p", b"c") == []


def test_bounds(store):
    assert code_of(store.set, "p", b"123456789", b"") == TOO_LARGE
    assert code_of(store.set, "p", b"k", bytes(101)) == TOO_LARGE
    assert code_of(store.set, "p", b"", b"v") == BAD_ARGUMENT
    for number in range(5):
        store.set("p", b"%d" % number, b"v")
    assert code_of(store.set, "p", b"5", b"v") == TOO_LARGE
    assert code_of(store.incr, "p", b"5", 1) == TOO_LARGE
    store.set("p", b"0", b"other")
    assert store.delete("p", b"1")
    store.set("p", b"5", b"v")


def test_the_bound_on_everything(store):
    for number in range(3):
        store.set("p", b"%d" % number, bytes(100))
    assert code_of(store.set, "q", b"k", bytes(100)) == TOO_LARGE
    store.set("q", b"k", bytes(90))
    store.delete("p", b"0")
    store.set("q", b"l", bytes(100))


def test_what_expired_makes_room(store):
    for number in range(5):
        store.set("p", b"%d" % number, b"v", 1)
    time.sleep(0.01)
    store.set("p", b"new", b"v")
    assert store.keys("p", b"") == [b"new"]


def test_counted():
    assert counted(None, 3) == b"3"
    assert counted(b"4", -4) == b"0"


CHILD = """
import sys
from pathlib import Path
from proxy.plugins.host.kv_shared import SharedKv
store = SharedKv(Path(sys.argv[1]))
for _ in range(300):
    store.incr("p", b"n", 1)
store.set("p", sys.argv[2].encode(), b"done")
"""


def test_processes_share_it_and_count_without_loss(tmp_path):
    path = tmp_path / "kv"
    mine = SharedKv(path)
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, str(path), f"c{number}"])
        for number in range(3)
    ]
    for _ in range(300):
        mine.incr("p", b"n", 1)
    assert [child.wait(25) for child in children] == [0, 0, 0]
    assert mine.get("p", b"n") == b"1200"
    assert mine.keys("p", b"c") == [b"c0", b"c1", b"c2"]
    assert path.stat().st_mode & 0o777 == 0o600
    mine.close()
    mine.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from proxy.plugins.host.kv_shared import SharedKv
store = SharedKv(Path(sys.argv[1]))
store.set("p", b"k", b"before")
with store._writing():
    store._database.execute("UPDATE kv SET value = 'half'")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_killed_in_the_middle_leaves_it_whole(tmp_path):
    path = tmp_path / "kv"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=25).returncode == -9
    mine = SharedKv(path)
    assert mine.get("p", b"k") == b"before"
    assert mine.incr("p", b"n", 1) == 1
    mine.close()
