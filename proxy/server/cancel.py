"""
CancelRequest: from a key that a client was given to the session that may cancel what it runs.

A request is never answered, whether its key was right or wrong (rule 34). Keys are random; the
upper bits of a process id say which worker process gave it, so that a request that the kernel
handed to another worker can be passed on. Which server connection serves the session *now* is the
session's business.
"""

import hmac
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Protocol, final

from proxy.observe.counters import Counters
from proxy.session.tuning import CancelKey

MAX_WORKERS: Final = 256
_WORKER_SHIFT: Final = 23
_NUMBER_MASK: Final = (1 << _WORKER_SHIFT) - 1

KEY_BYTES_3_0: Final = 4
KEY_BYTES_3_2: Final = 32
"""PostgreSQL 18's own length (MAX_CANCEL_KEY_LENGTH); the protocol allows 4 to 256."""


class Cancellable(Protocol):
    """A client's session."""

    def cancel(self) -> None:
        """Cancel what it runs now, or its wait for a server connection."""


class CancelForwarder(ABC):
    """The way to the other worker processes of this proxy."""

    @abstractmethod
    async def forward(self, worker: int, process_id: int, secret_key: bytes) -> None:
        """Let that worker handle the request; return when it has, or after a limit. Never raises."""


def worker_of(process_id: int) -> int:
    """Tell which worker process gave a process id."""
    return (process_id >> _WORKER_SHIFT) & (MAX_WORKERS - 1)


@final
class CancelRegistry:
    """
    The keys of all clients of this worker process.

    worker     number of this worker process, 0 to 255
    forwarder  the way to the others; None: there are none
    """

    __slots__ = ("_counters", "_decoy", "_random_bytes", "_sessions", "forwarder", "worker")

    def __init__(
        self,
        counters: Counters,
        worker: int = 0,
        forwarder: CancelForwarder | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.worker = worker % MAX_WORKERS
        self.forwarder = forwarder
        self._counters = counters
        self._random_bytes = random_bytes
        self._sessions: dict[int, tuple[bytes, Cancellable]] = {}
        self._decoy = random_bytes(KEY_BYTES_3_2)

    def __len__(self) -> int:
        return len(self._sessions)

    def register(self, session: Cancellable, protocol_minor: int) -> CancelKey:
        """Give a session a key of its own, as long as its protocol version allows."""
        while True:
            number = int.from_bytes(self._random_bytes(3), "big")
            # Positive as an Int32, because tools show it as a process id; and never 0.
            process_id = (self.worker << _WORKER_SHIFT) | (number & _NUMBER_MASK)
            if process_id != 0 and process_id not in self._sessions:
                break
        size = KEY_BYTES_3_2 if protocol_minor >= 2 else KEY_BYTES_3_0
        secret_key = self._random_bytes(size)
        self._sessions[process_id] = (secret_key, session)
        return CancelKey(process_id, secret_key)

    def unregister(self, key: CancelKey) -> None:
        """Forget a session's key (idempotent)."""
        held = self._sessions.get(key.process_id)
        if held is not None and hmac.compare_digest(held[0], key.secret_key):
            del self._sessions[key.process_id]

    async def handle(self, process_id: int, secret_key: bytes) -> None:
        """Carry out a request that came from a client, here or in the worker that gave the key."""
        process_id &= 0xFFFFFFFF
        worker = worker_of(process_id)
        if worker != self.worker and self.forwarder is not None:
            await self.forwarder.forward(worker, process_id, secret_key)
            return
        self.cancel_here(process_id, secret_key)

    def cancel_here(self, process_id: int, secret_key: bytes) -> bool:
        """Carry out a request in this worker; tells whether the key was right."""
        held = self._sessions.get(process_id)
        # The comparison takes place for an unknown process id too: the time tells nothing.
        is_right = hmac.compare_digest(self._decoy if held is None else held[0], secret_key)
        if held is None or not is_right:
            self._counters.count("cancel_wrong_key")
            return False
        self._counters.cancels += 1
        held[1].cancel()
        return True
