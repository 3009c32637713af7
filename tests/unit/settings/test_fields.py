"""What the model says about itself is read right, for each way to declare a field."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from proxy.settings.fields import (
    DURATION,
    FREE,
    INTEGER,
    LIST,
    NAMED_TABLES,
    PATH,
    SECRET,
    SIZE,
    STRING,
    TABLE,
    TABLES,
    settings_of,
)
from proxy.settings.kinds import Bytes, OptionalPath, PositiveSeconds, SecretStr


class Inner(Struct, frozen=True):
    name: str


class Outer(Struct, frozen=True, kw_only=True):
    required: str
    number: Annotated[int, Meta(ge=1, le=9)] = 5
    narrowed: Annotated[Bytes, Meta(ge=10, le=20)] = 10
    wait: PositiveSeconds = 1.0
    path: OptionalPath = None
    secret: SecretStr | None = None
    choice: Literal["a", "b"] = "a"
    words: tuple[Annotated[str, Meta(extra={"choices": ("x", "y")})], ...] = ()
    optional_words: tuple[str, ...] | None = None
    inner: Inner = Inner("x")
    inners: tuple[Inner, ...] = ()
    named: dict[str, Inner] = {}
    free: dict[str, Any] = {}
    formed: Annotated[str, Meta(pattern="^x$")] = "x"


def test_kinds_bounds_and_defaults() -> None:
    found = settings_of(Outer)
    kinds = {name: setting.shape.kind for name, setting in found.items()}
    assert kinds == {
        "required": STRING,
        "number": INTEGER,
        "narrowed": SIZE,
        "wait": DURATION,
        "path": PATH,
        "secret": SECRET,
        "choice": STRING,
        "words": LIST,
        "optional_words": LIST,
        "inner": TABLE,
        "inners": TABLES,
        "named": NAMED_TABLES,
        "free": FREE,
        "formed": STRING,
    }
    assert [name for name, setting in found.items() if setting.is_required] == ["required"]
    assert found["number"].default == 5
    assert found["named"].default == {}
    shapes = {name: setting.shape for name, setting in found.items()}
    assert (shapes["number"].minimum, shapes["number"].maximum) == (1, 9)
    assert (shapes["narrowed"].minimum, shapes["narrowed"].maximum) == (10, 20)
    assert shapes["wait"].above == 0
    assert shapes["choice"].choices == ("a", "b")
    assert shapes["words"].item is not None
    assert shapes["words"].item.choices == ("x", "y")
    assert shapes["inners"].table is Inner
    assert shapes["named"].table is Inner
    assert shapes["formed"].pattern == "^x$"


def test_what_may_be_left_unset_is_known() -> None:
    found = settings_of(Outer)
    optional = [name for name, setting in found.items() if setting.shape.is_optional]
    # A path is None where the file says "": there is a way to write that.
    assert optional == ["secret", "optional_words"]
