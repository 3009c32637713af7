"""The frontend/backend protocol: bytes, frames, messages. Knows nothing of sessions."""
