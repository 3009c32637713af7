from typing import Any

import pytest

from proxy.admin.standing import StandingOrders


def after(*requests: dict[str, Any]) -> list[dict[str, Any]]:
    orders = StandingOrders()
    for request in requests:
        orders.note(request)
    return orders.all()


def pause(database: str = "") -> dict[str, Any]:
    return {"do": "pause", "database": database}


def plugin(word: str, name: str = "p") -> dict[str, Any]:
    return {"do": f"plugin_{word}", "name": name}


@pytest.mark.parametrize(
    ("given", "standing"),
    [
        ([], []),
        ([{"do": "metrics"}, {"do": "reload"}], []),
        ([{**pause("a"), "wait_s": 9}], [pause("a")]),
        ([pause("a"), pause("a"), pause()], [pause("a"), pause()]),
        ([pause("a"), pause("b"), {"do": "resume", "database": "a"}], [pause("b")]),
        ([pause("a"), pause(), {"do": "resume"}], []),
        ([{"do": "kill", "database": "a"}], [pause("a")]),
        ([plugin("disable")], [plugin("disable")]),
        ([plugin("disable"), plugin("enable")], []),
        ([plugin("disable"), plugin("reload")], [plugin("disable")]),
        ([plugin("unload"), plugin("reload")], []),
        ([plugin("unload"), plugin("disable")], [plugin("disable")]),
        ([plugin("disable", "q"), plugin("enable", "p")], [plugin("disable", "q")]),
    ],
)
def test_what_still_holds(given: list[dict[str, Any]], standing: list[dict[str, Any]]) -> None:
    assert after(*given) == standing
