"""
Whose notifications come from a server process: a client knows others by the ids of their keys.

A NotificationResponse names the server process that has committed the NOTIFY. Clients compare it
with what BackendKeyData told them: a client wants to pass over its own. So the process is replaced
by the id of the client that it served last. A client that listens keeps its connection, so that its
own notifications are always told apart from those of others. Servers that no connection of this
process goes to keep their number.
"""

from typing import Final, final


@final
class Speaker:
    """One server process: its node and number, and the id of the client that it served last."""

    __slots__ = ("client_id", "node", "process_id")

    def __init__(self, node: str, process_id: int) -> None:
        self.node = node
        self.process_id = process_id
        self.client_id = 0


_speakers: Final[dict[tuple[str, int], Speaker]] = {}


def enter(node: str, process_id: int) -> Speaker:
    """A connection to a server process stands."""
    speaker = Speaker(node, process_id)
    _speakers[(node, process_id)] = speaker
    return speaker


def leave(speaker: Speaker) -> None:
    """The connection has ended (idempotent)."""
    key = (speaker.node, speaker.process_id)
    if _speakers.get(key) is speaker:
        del _speakers[key]


def named(frame: bytes, node: str) -> bytes:
    """A NotificationResponse that came from a node, with the id of the client that has notified."""
    if len(frame) < 9:
        return frame
    process_id = (frame[5] << 24) | (frame[6] << 16) | (frame[7] << 8) | frame[8]
    speaker = _speakers.get((node, process_id))
    if speaker is None or speaker.client_id == 0:
        return frame
    return frame[:5] + speaker.client_id.to_bytes(4, "big") + frame[9:]
