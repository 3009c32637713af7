"""An answer says what, why and what to do."""

from proxy.admin.problems import AdminProblem


def test_the_status_has_a_phrase() -> None:
    assert AdminProblem(404, "no x", "look").as_dict() == {
        "error": {"what": "not found", "why": "no x", "hint": "look"}
    }
    assert AdminProblem(418, "y").what == "failed"
