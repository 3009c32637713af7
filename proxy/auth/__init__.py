"""Authentication exchanges, both sides, as step(bytes) -> bytes. No sockets, no clock."""
