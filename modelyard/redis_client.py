"""Opens Redis by URL: alone, behind Sentinel, or as a Cluster."""

from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from modelyard.errors import InvalidArgument

# redis-py gives its constructor no types.
_sentinel: Any = Sentinel
# Of one command, in seconds; a tail blocks for one second of them.
TIMEOUT = 2.0


def connect(url: str) -> Any:
    """A client that answers bytes; it connects at the first command.

    Args:
        url: `redis://`, `rediss://` or `unix:///path`; `redis+cluster://host:port`;
            `redis+sentinel://host:port/service`.

    Raises:
        InvalidArgument: The URL is of another kind.
    """
    options: dict[str, Any] = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
    parts = urlsplit(url)
    try:
        match parts.scheme:
            case "redis" | "rediss" | "unix":
                # A lost answer is not asked for again here: who asked knows whether it may be.
                return Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options)
            case "redis+cluster":
                return RedisCluster(host=parts.hostname or "", port=parts.port or 6379, **options)
            case "redis+sentinel":
                sentinel: Any = _sentinel([(parts.hostname or "", parts.port or 26379)], **options)
                return sentinel.master_for(parts.path.strip("/") or "mymaster", **options)
    except ValueError as error:
        raise InvalidArgument(f"redis {url!r}: {error}", field="redis") from None
    raise InvalidArgument(f"redis {url!r}: of an unknown kind", field="redis")
