"""The change log on one Redis Stream.

The entry of revision n has the id `n-0`. Redis refuses an id that is not above the last one:
so one `XADD` is at once the check that nobody came first, the atomic write, and, where Redis
syncs always, the durable one. One key lies in one slot: a Cluster will do.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from modelyard.catalog import Change
from modelyard.catalog.convert import change_from, change_to
from modelyard.errors import StoreUnavailable
from modelyard.registry.v1 import change_pb2
from services.registry.log import Conflict

_KEY = "{modelyard}:changes"
_FIELD = b"change"
_BATCH = 1000
# A tail asks anew after so many milliseconds without a change.
_BLOCK_MS = 1000


@contextmanager
def translated() -> Iterator[None]:
    """Whatever Redis, or the way to it, has against a command: the store is unavailable."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable(f"the registry's store does not answer: {error}") from error


class RedisLog:
    """Implements `services.registry.log.ChangeLog`.

    Args:
        redis: A client that answers bytes.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    async def append(self, change: Change) -> None:
        """See `ChangeLog.append`."""
        record = change_to(change).SerializeToString()
        with translated():
            try:
                await self._redis.xadd(_KEY, {_FIELD: record}, id=f"{change.revision}-0")
            except ResponseError as error:
                if "equal or smaller" in str(error):
                    raise Conflict from None
                raise

    async def read(self, after: int) -> list[Change]:
        """See `ChangeLog.read`."""
        changes: list[Change] = []
        while True:
            with translated():
                entries = await self._redis.xrange(_KEY, min=f"{after + 1}-0", count=_BATCH)
            changes += [_change(entry) for entry in entries]
            if len(entries) < _BATCH:
                return changes
            after = changes[-1].revision

    async def tail(self, after: int) -> AsyncIterator[Change]:
        """See `ChangeLog.tail`."""
        while True:
            with translated():
                found = await self._redis.xread({_KEY: f"{after}-0"}, count=_BATCH, block=_BLOCK_MS)
            for _, entries in found or ():
                for entry in entries:
                    change = _change(entry)
                    after = change.revision
                    yield change


def _change(entry: tuple[bytes, dict[bytes, bytes]]) -> Change:
    return change_from(change_pb2.Change.FromString(entry[1][_FIELD]))
