"""
Host functions that need no service: configuration, clock, randomness, digests, memory, abort.
"""

import hashlib
import hmac
import json
import math
from typing import Final

from proxy.plugins.host.guest import MISSING, TOO_LARGE, Guest

MAX_RANDOM_BYTES: Final = 65_536
DIGEST_BYTES: Final = 32


def config_get(guest: Guest, key: int, key_len: int, out: int, capacity: int) -> int:
    """config_get(key_ptr, key_len, out_ptr, out_cap): length; strings as they are, others JSON."""
    name = guest.read_text(key, key_len)
    if name not in guest.config:
        return MISSING
    value = guest.config[name]
    text = value.encode() if isinstance(value, str) else config_json(value)
    return guest.give(text, out, capacity)


def config_json(value: object) -> bytes:
    """Configuration as JSON: of what TOML has and JSON has not, dates are texts and NaN is null."""
    return json.dumps(_finite(value), ensure_ascii=False, default=str).encode()


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def now_us(guest: Guest) -> int:
    """now_us(): microseconds since 1970."""
    return guest.services.now_us()


def random(guest: Guest, out: int, length: int) -> int:
    """random(out_ptr, out_len): the number of bytes written."""
    if length > MAX_RANDOM_BYTES:
        return TOO_LARGE
    guest.write(out, guest.services.random_bytes(length))
    return length


def sha256(guest: Guest, data: int, length: int, out: int, capacity: int = DIGEST_BYTES) -> int:
    """sha256(in_ptr, in_len, out_ptr[, out_cap]): 32."""
    return guest.give(hashlib.sha256(guest.read(data, length)).digest(), out, int(capacity))


def hmac_sha256(
    guest: Guest,
    key: int,
    key_len: int,
    data: int,
    length: int,
    out: int,
    capacity: int = DIGEST_BYTES,
) -> int:
    """hmac_sha256(key_ptr, key_len, in_ptr, in_len, out_ptr[, out_cap]): 32."""
    digest = hmac.digest(guest.read(key, key_len), guest.read(data, length), "sha256")
    return guest.give(digest, out, int(capacity))


def memory_size(guest: Guest) -> int:
    """memory_size(): bytes of memory the plugin has now."""
    return guest.memory_bytes()
