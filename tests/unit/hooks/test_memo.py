"""What is remembered, for whom, and how much of it."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.hooks.answers import PASS, Answer
from proxy.hooks.memo import MAX_TEXT_BYTES, PureMemo, identity_of
from tests.unit.hooks.fakes import client_of

YES = Answer(PASS, "continue")


def test_found_for_the_same_text_and_identity_only() -> None:
    memo = PureMemo()
    memo.remember(b"a", client_of("alice"), YES)
    assert memo.find(b"a", client_of("alice")) is YES
    assert memo.find(b"b", client_of("alice")) is None
    assert memo.find(b"a", client_of("bob")) is None


def test_an_identity_is_everything_that_the_login_said() -> None:
    memo = PureMemo()
    plain = client_of()
    memo.remember(b"a", plain, YES)
    others = [client_of() for _ in range(4)]
    others[0].roles = ["admin"]
    others[1].tenant_id = "t"
    others[2].claims = {"k": "v"}
    others[3].roles = ["adm", "in"]
    for other in others:
        assert memo.find(b"a", other) is None
        memo.remember(b"a", other, YES)
        assert memo.find(b"a", other) is YES
    assert len({identity_of(client) for client in (plain, *others)}) == 5


def test_large_things_are_not_remembered() -> None:
    memo = PureMemo()
    large = Answer(PASS, "continue")
    large.is_large = True
    memo.remember(b"a", client_of(), large)
    memo.remember(b"x" * (MAX_TEXT_BYTES + 1), client_of(), YES)
    assert len(memo) == 0


@given(st.lists(st.integers(0, 30), max_size=200), st.integers(1, 12))
def test_bounded_whatever_comes(texts: list[int], max_entries: int) -> None:
    memo = PureMemo(max_entries)
    client = client_of()
    for number in texts:
        text = b"%d" % number
        if memo.find(text, client) is None:
            memo.remember(text, client, YES)
        assert memo.find(text, client) is YES
        assert len(memo) <= max(2, max_entries)


def test_what_is_used_stays() -> None:
    memo = PureMemo(4)
    client = client_of()
    memo.remember(b"used", client, YES)
    for number in range(20):
        memo.remember(b"%d" % number, client, YES)
        assert memo.find(b"used", client) is YES
    assert memo.find(b"0", client) is None
