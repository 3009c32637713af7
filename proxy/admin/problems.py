"""
What the admin side answers when it cannot do what was asked: a status, and what, why and a hint.

The texts are for the operator who asked; nothing internal is in them, and never a traceback.
"""

from typing import Final, final

from proxy.errors import HeadgateError

PHRASES: Final = {
    400: "bad request",
    401: "not authorised",
    403: "forbidden",
    404: "not found",
    405: "method not allowed",
    409: "not possible now",
    413: "too large",
    415: "wrong content type",
    421: "wrong host",
    422: "refused",
    500: "internal error",
    502: "the plugin failed",
    503: "not available",
    504: "timed out",
}


@final
class AdminProblem(HeadgateError):
    """A request of an operator that is not carried out."""

    def __init__(self, status: int, why: str, hint: str = "", what: str = "") -> None:
        super().__init__(why)
        self.status = status
        self.what = what or PHRASES.get(status, "failed")
        self.why = why
        self.hint = hint

    def as_dict(self) -> dict[str, dict[str, str]]:
        """The body of the answer."""
        return {"error": {"what": self.what, "why": self.why, "hint": self.hint}}
