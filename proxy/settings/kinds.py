"""
The types that settings are made of, beyond Python's own: how a value is written in the file.

A field's annotation says both what the program gets and how the operator writes it: `Seconds` is a
float written "30s", `Bytes` an int written "16MiB". Knows nothing of sections or of the file.
"""

from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
MINUTE: Final = 60.0
HOUR: Final = 3600.0
MAX_COUNT: Final = 1_000_000


class Secret(str):
    """A string that is never shown: `repr` hides it, so that no log or traceback can carry it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


# A float of seconds, written "5ms", "30s", "10m", "1h", "2d"; "0" is off where a field allows it.
Seconds = Annotated[float, Meta(ge=0, extra={"kind": "duration"})]
# As Seconds, for what cannot be turned off.
PositiveSeconds = Annotated[float, Meta(gt=0, extra={"kind": "duration"})]
# An int of bytes, written "64kB", "16MiB", "1GB".
Bytes = Annotated[int, Meta(ge=0, extra={"kind": "size"})]
# An absolute path; written relative to the file; "" is None.
OptionalPath = Annotated[Path | None, Meta(extra={"kind": "path"})]
# A str, written in place, with ${NAME}, or as { file = "…" }.
SecretStr = Annotated[Secret, Meta(extra={"kind": "secret"})]

Port = Annotated[int, Meta(ge=1, le=65535)]
OptionalPort = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
PositiveCount = Annotated[int, Meta(ge=1, le=MAX_COUNT)]

NO_SECRET: Final = Secret("")
