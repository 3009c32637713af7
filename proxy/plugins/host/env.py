"""
The four functions of module `env` that ABI 0 modules import, with their own result codes.

Also `env.abort`, which AssemblyScript's runtime imports whatever the ABI.
"""

import hashlib
from typing import Final

from proxy.plugins.host.guest import Guest, HostFault

_FAILED: Final = -1
_TOO_SMALL: Final = -2


def kv_get(guest: Guest, key: int, key_len: int, out: int, capacity: int) -> int:
    """Bytes written, -1 missing, -2 buffer too small."""
    store = guest.services.kv
    try:
        if key_len > store.bounds.key_bytes:
            return _FAILED
        value = store.get(guest.plugin, guest.read(key, key_len))
        if value is None:
            return _FAILED
        if len(value) > capacity:
            return _TOO_SMALL
        guest.write(out, value)
    except HostFault:
        return _FAILED
    return len(value)


def kv_set(guest: Guest, key: int, key_len: int, value: int, value_len: int) -> int:
    """0, or -1."""
    store = guest.services.kv
    if key_len > store.bounds.key_bytes or value_len > store.bounds.value_bytes:
        return _FAILED
    try:
        store.set(guest.plugin, guest.read(key, key_len), guest.read(value, value_len))
    except HostFault:
        return _FAILED
    return 0


def kv_delete(guest: Guest, key: int, key_len: int) -> int:
    """0, there or not; -1 only for a pointer outside memory."""
    store = guest.services.kv
    try:
        if key_len <= store.bounds.key_bytes:
            store.delete(guest.plugin, guest.read(key, key_len))
    except HostFault:
        return _FAILED
    return 0


def sha256_hex(guest: Guest, data: int, length: int, out: int) -> int:
    """64, or -1."""
    try:
        guest.write(out, hashlib.sha256(guest.read(data, length)).hexdigest().encode())
    except HostFault:
        return _FAILED
    return 64
