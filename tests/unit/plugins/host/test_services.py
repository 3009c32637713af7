"""What host functions have without a word from anybody."""

from proxy.plugins.host.services import Services


def test_defaults_are_local_and_do_not_wait():
    one, other = Services(), Services()
    assert not one.kv.waits
    assert one.queries is None
    assert one.http is None
    one.kv.set("p", b"k", b"v")
    assert other.kv.get("p", b"k") is None
    assert len(one.random_bytes(7)) == 7
