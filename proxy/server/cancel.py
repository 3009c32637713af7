"""
CancelRequest: from a key that a client was given to the session that may cancel what it runs.

A request is never answered, whether its key was right or wrong (rule 34). Which server connection
serves the session *now* is the session's business.

The kernel hands a request to any worker process, and the key must say whose it is. Its process id
cannot: in session mode it is the server's own. So it is the secret that tells, to who has the key
that all workers share: each worker draws secrets until one has the hash of its own number. Who does
not know that key learns nothing by this, and has as many secrets to guess as before.
"""

import hmac
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Protocol, final

from proxy.observe.counters import Counters
from proxy.session.ports import Keys
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
    """Tell which worker process gave a process id that is not a server's."""
    return (process_id >> _WORKER_SHIFT) & (MAX_WORKERS - 1)


@final
class CancelRegistry(Keys):
    """
    The keys of all clients of this worker process.

    worker     number of this worker process, 0 to 255, of `workers`
    forwarder  the way to the others; None: there are none
    shared     random, the same for all workers
    """

    __slots__ = (
        "_counters",
        "_decoys",
        "_random_bytes",
        "_sessions",
        "_shared",
        "_workers",
        "forwarder",
        "worker",
    )

    def __init__(
        self,
        counters: Counters,
        worker: int = 0,
        forwarder: CancelForwarder | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        workers: int = 1,
        shared: bytes = b"",
    ) -> None:
        self.worker = worker % MAX_WORKERS
        self.forwarder = forwarder
        self._counters = counters
        self._random_bytes = random_bytes
        # By process id; of servers on two nodes, two may be the same.
        self._sessions: dict[int, list[tuple[bytes, Cancellable | None]]] = {}
        self._decoys: list[tuple[bytes, Cancellable | None]] = [(random_bytes(KEY_BYTES_3_2), None)]
        self._workers = min(workers, MAX_WORKERS)
        self._shared = shared

    def __len__(self) -> int:
        return sum(len(held) for held in self._sessions.values())

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
        while self._owner(secret_key) != self.worker:
            secret_key = self._random_bytes(size)
        self._sessions[process_id] = [(secret_key, session)]
        return CancelKey(process_id, secret_key)

    def rename(self, key: CancelKey, process_id: int) -> CancelKey:
        """Let a session's key have a server's process id; the old one, where that is not possible."""
        others = self._sessions.get(process_id, [])
        held = self._find(key.process_id, key.secret_key)
        if held is None or any(hmac.compare_digest(other[0], held[0]) for other in others):
            return key
        self.unregister(key)
        self._sessions.setdefault(process_id, []).append(held)
        return CancelKey(process_id, key.secret_key)

    def unregister(self, key: CancelKey) -> None:
        """Forget a session's key (idempotent)."""
        held = self._find(key.process_id, key.secret_key)
        if held is not None:
            self._sessions[key.process_id].remove(held)
            if not self._sessions[key.process_id]:
                del self._sessions[key.process_id]

    def _owner(self, secret_key: bytes) -> int:
        """The worker that has given a key with this secret."""
        if self._workers <= 1:
            return self.worker
        digest = hmac.digest(self._shared, secret_key, "sha256")
        return int.from_bytes(digest[:8], "big") % self._workers

    def _find(self, process_id: int, secret_key: bytes) -> tuple[bytes, Cancellable] | None:
        # The comparison takes place for an unknown process id too: the time tells nothing.
        found: tuple[bytes, Cancellable] | None = None
        for held in self._sessions.get(process_id, self._decoys):
            if hmac.compare_digest(held[0], secret_key) and held[1] is not None:
                found = (held[0], held[1])
        return found

    async def handle(self, process_id: int, secret_key: bytes) -> None:
        """Carry out a request that came from a client, here or in the worker that gave the key."""
        process_id &= 0xFFFFFFFF
        worker = self._owner(secret_key)
        if worker != self.worker and self.forwarder is not None:
            await self.forwarder.forward(worker, process_id, secret_key)
            return
        self.cancel_here(process_id, secret_key)

    def cancel_here(self, process_id: int, secret_key: bytes) -> bool:
        """Carry out a request in this worker; tells whether the key was right."""
        held = self._find(process_id, secret_key)
        if held is None:
            self._counters.count("cancel_wrong_key")
            return False
        self._counters.cancels += 1
        held[1].cancel()
        return True
