"""A client by hand: raw messages over a socket, for what no driver would send."""

import socket
from types import TracebackType

from proxy.protocol import frontend

Message = tuple[bytes, bytes]
"""Type byte and body."""


class RawClient:
    """One connection; every wait has an end."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout_s: float = 10.0) -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout_s)
        self._buffer = b""
        self.key = (0, b"")

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket, whatever is under way."""
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def receive(self) -> Message | None:
        """Take the next message; None at the end of the stream."""
        while True:
            if len(self._buffer) >= 5:
                size = 1 + int.from_bytes(self._buffer[1:5], "big")
                if len(self._buffer) >= size:
                    message = (self._buffer[:1], self._buffer[5:size])
                    self._buffer = self._buffer[size:]
                    return message
            try:
                data = self.socket.recv(65_536)
            except ConnectionError:
                return None
            if not data:
                return None
            self._buffer += data

    def until_ready(self, count: int = 1) -> list[Message]:
        """All messages up to the next ReadyForQuery, or `count` of them, or the end."""
        found: list[Message] = []
        while count:
            message = self.receive()
            if message is None:
                break
            found.append(message)
            if message[0] == b"Z":
                count -= 1
        return found

    def until_closed(self) -> list[Message]:
        """All messages up to the end of the stream."""
        found: list[Message] = []
        while True:
            message = self.receive()
            if message is None:
                return found
            found.append(message)

    def login(self, **parameters: str) -> list[Message]:
        """Log in without a password."""
        words = {"user": "postgres", "database": "postgres", **parameters}
        self.send(startup_packet(words))
        found = self.until_ready()
        for tag, body in found:
            if tag == b"K":
                self.key = (int.from_bytes(body[:4], "big"), body[4:])
        return found

    def query(self, sql: str) -> list[Message]:
        """Run a simple Query."""
        self.send(frontend.encode_query(sql.encode()))
        return self.until_ready()


def startup_packet(parameters: dict[str, str], version: int = 0x30000) -> bytes:
    """A StartupMessage."""
    body = version.to_bytes(4, "big")
    for name, value in parameters.items():
        body += name.encode() + b"\0" + value.encode() + b"\0"
    body += b"\0"
    return (len(body) + 4).to_bytes(4, "big") + body


def message(tag: bytes, body: bytes = b"") -> bytes:
    """One message."""
    return tag + (len(body) + 4).to_bytes(4, "big") + body


def sqlstates(messages: list[Message]) -> list[str]:
    """The SQLSTATEs of all ErrorResponses."""
    return [field(body, b"C") for tag, body in messages if tag == b"E"]


def field(body: bytes, letter: bytes) -> str:
    """One field of an ErrorResponse or NoticeResponse."""
    for part in body.split(b"\0"):
        if part[:1] == letter:
            return part[1:].decode()
    return ""


def rows(messages: list[Message]) -> list[list[bytes | None]]:
    """The values of all DataRows."""
    found: list[list[bytes | None]] = []
    for tag, body in messages:
        if tag != b"D":
            continue
        values: list[bytes | None] = []
        position = 2
        for _ in range(int.from_bytes(body[:2], "big")):
            size = int.from_bytes(body[position : position + 4], "big", signed=True)
            position += 4
            values.append(None if size < 0 else body[position : position + size])
            position += max(size, 0)
        found.append(values)
    return found
