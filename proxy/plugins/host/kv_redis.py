"""
The key-value store of a whole fleet: Valkey or Redis at `[kv] url`.

Its calls wait for the network, so plugins that use it run on worker threads. The bounds on keys and
values hold here; how much there may be in all is the server's `maxmemory`.
"""

from typing import Any, Final, final

from proxy.plugins.host.guest import (
    BAD_ARGUMENT,
    TIMED_OUT,
    TOO_LARGE,
    UNAVAILABLE,
    HostFault,
)
from proxy.plugins.host.kv import KvBounds, KvStore

_PREFIX: Final = "headgate:kv:"
_SCAN_COUNT: Final = 1000
_TOO_MANY: Final = -2
_NO_NUMBER: Final = -4

# KEYS: value, index of the plugin's keys. ARGV: key, value or delta, ttl in ms, most keys.
# The index names what the plugin has, so that the bound on keys needs no scan of the server; names
# in it whose value has expired are dropped when the bound is reached.
_ROOM: Final = """
local function room()
  if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 1 then return true end
  if redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[4]) then
    for _, name in ipairs(redis.call('SMEMBERS', KEYS[2])) do
      if redis.call('EXISTS', ARGV[5] .. name) == 0 then redis.call('SREM', KEYS[2], name) end
    end
    if redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[4]) then return false end
  end
  redis.call('SADD', KEYS[2], ARGV[1])
  return true
end
"""
_SET: Final = (
    _ROOM
    + """
if not room() then return -2 end
if tonumber(ARGV[3]) > 0 then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
else redis.call('SET', KEYS[1], ARGV[2]) end
return 0
"""
)
_INCR: Final = (
    _ROOM
    + """
if not room() then return {-2} end
local is_new = redis.call('EXISTS', KEYS[1]) == 0
local answer = redis.pcall('INCRBY', KEYS[1], ARGV[2])
if type(answer) == 'table' then return {-4} end
if is_new and tonumber(ARGV[3]) > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return {0, redis.call('GET', KEYS[1])}
"""
)


@final
class RedisKv(KvStore):
    """A store behind a `redis://` address."""

    waits = True

    def __init__(self, url: str, timeout_s: float, bounds: KvBounds | None = None) -> None:
        try:
            import redis
        except ImportError as error:
            raise RuntimeError("[kv] url needs the package redis; install headgate[kv]") from error
        self.bounds = bounds or KvBounds()
        self._redis = redis
        limit = timeout_s if timeout_s > 0 else None
        self._client: Any = redis.Redis.from_url(
            url, socket_timeout=limit, socket_connect_timeout=limit, health_check_interval=30
        )
        self._set = self._client.register_script(_SET)
        self._incr = self._client.register_script(_INCR)

    def _names(self, plugin: str, key: bytes) -> tuple[bytes, str]:
        return f"{_PREFIX}{plugin}:v:".encode() + key, f"{_PREFIX}{plugin}:keys"

    def _values(self, plugin: str) -> str:
        return f"{_PREFIX}{plugin}:v:"

    def _call(self, function: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except self._redis.TimeoutError as error:
            raise HostFault(TIMED_OUT) from error
        except self._redis.RedisError as error:
            raise HostFault(UNAVAILABLE) from error

    def get(self, plugin: str, key: bytes) -> bytes | None:
        """See KvStore."""
        value: bytes | None = self._call(self._client.get, self._names(plugin, key)[0])
        return value

    def set(self, plugin: str, key: bytes, value: bytes, ttl_ms: int = 0) -> None:
        """See KvStore."""
        self.check_sizes(key, value)
        answer = self._call(
            self._set,
            keys=list(self._names(plugin, key)),
            args=[key, value, ttl_ms, self.bounds.plugin_keys, self._values(plugin)],
        )
        if answer == _TOO_MANY:
            raise HostFault(TOO_LARGE)

    def delete(self, plugin: str, key: bytes) -> bool:
        """See KvStore."""
        name, index = self._names(plugin, key)
        self._call(self._client.srem, index, key)
        return bool(self._call(self._client.delete, name))

    def incr(self, plugin: str, key: bytes, delta: int, ttl_ms: int = 0) -> int:
        """See KvStore."""
        self.check_sizes(key, b"")
        answer = self._call(
            self._incr,
            keys=list(self._names(plugin, key)),
            args=[key, delta, ttl_ms, self.bounds.plugin_keys, self._values(plugin)],
        )
        if answer[0] == _TOO_MANY:
            raise HostFault(TOO_LARGE)
        if answer[0] == _NO_NUMBER:
            raise HostFault(BAD_ARGUMENT)
        return int(answer[1])

    def keys(self, plugin: str, prefix: bytes) -> list[bytes]:
        """See KvStore."""
        start = self._values(plugin).encode()
        found = self._call(self._client.smembers, f"{_PREFIX}{plugin}:keys")
        names = sorted(name for name in found if name.startswith(prefix))[:_SCAN_COUNT]
        if not names:
            return []
        values = self._call(self._client.mget, [start + name for name in names])
        return [name for name, value in zip(names, values, strict=True) if value is not None]

    def close(self) -> None:
        """See KvStore."""
        self._client.close()
