"""Reads one model's events as a consumer group: what was read and not done comes again."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.exceptions import RedisError, ResponseError

from modelyard.errors import StoreUnavailable
from modelyard.events.progress import Progress
from modelyard.events.streams import MODELS, Entry, entry_of, stream_key

# A group has one reader at a time; the next one goes on in its name.
_CONSUMER = "reader"
_AT_ONCE = 1000


class Reader:
    """Reads one model's events.

    Args:
        redis: A client that answers bytes.
        group: The name of the reader, as Redis shows it.
        model: The model's name.
        position: The last entry that was taken in, where the reader was here before; else "" to
            begin with the oldest event that there is, "$" to begin with the next one.
    """

    def __init__(self, redis: Any, group: str, model: str, position: str = "") -> None:
        self._redis = redis
        self._group = group
        self._key = stream_key(model)
        self._position = self._done = position
        self._open = False
        # After which of the entries that were given and not done the next question asks.
        self._again: str | None = None
        self._given: deque[str] = deque()

    async def open(self) -> None:
        """Returns when the reader has its place: what is written from now on it will read.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        with self._answering():
            if not self._open:
                await self._begin()

    async def read(self, count: int) -> list[Entry]:
        """The next entries, at most `count`; none where there are none now.

        Raises:
            StoreUnavailable: Redis does not answer; nothing is lost by asking again.
        """
        with self._answering():
            if not self._open:
                await self._begin()
            if self._again is not None:
                raw = await self._ask(self._again, count)
                self._again = raw[-1][0].decode() if raw else None
                if raw:
                    return self._take(raw)
            return self._take(await self._ask(">", count))

    async def done(self, position: str) -> None:
        """Says that everything up to an entry is taken in, and will not be asked for again.

        Raises:
            StoreUnavailable: Redis does not answer; it may be said later.
        """
        self._done = position
        ids: list[str] = []
        while self._given and _order(self._given[0]) <= _order(position):
            ids.append(self._given.popleft())
        if ids:
            with self._answering():
                await self._redis.xack(self._key, self._group, *ids)

    async def leave(self) -> None:
        """Ends the group: nobody will go on with it.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        with self._answering():
            await self._redis.xgroup_destroy(self._key, self._group)

    async def _begin(self) -> None:
        """Makes the group, or takes it up where what was taken in ends."""
        start = self._position or "0"
        try:
            await self._redis.xgroup_create(self._key, self._group, id=start, mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
            await self._take_up(start)
        self._open = True

    async def _take_up(self, start: str) -> None:
        if start == "$":
            # Nothing was kept yet: the group began where this reader did. What was given to it
            # and not done comes first, then what is new.
            self._again = "0"
            return
        self._again = None
        # What is kept counts, not what was once given: everything after it comes again.
        await self._redis.xgroup_setid(self._key, self._group, id=start)
        # Where Redis was away, more was read than is done: until it is, the next reader needs it.
        while self._done not in ("", "$"):
            pending = await self._redis.xpending_range(
                self._key, self._group, min="-", max=self._done, count=_AT_ONCE
            )
            if not pending:
                break
            ids = [entry["message_id"] for entry in pending]
            await self._redis.xack(self._key, self._group, *ids)

    async def _ask(self, after: str, count: int) -> list[Any]:
        try:
            found = await self._redis.xreadgroup(
                self._group, _CONSUMER, {self._key: after}, count=count
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            # Redis came back without its last second, or someone removed the group.
            await self._begin()
            return []
        if isinstance(found, dict):
            found = list(found.items())
        return list(found[0][1]) if found else []

    def _take(self, raw: list[Any]) -> list[Entry]:
        entries: list[Entry] = []
        for position, fields in raw:
            at = position.decode()
            self._position = at
            self._given.append(at)
            # Of one that was cut off while nobody had read it the gap in the numbers will tell.
            entries.append(entry_of(at, fields))
        return entries

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError, TimeoutError) as error:
            self._open = False
            raise StoreUnavailable(f"the event log does not answer: {error}") from error


async def models(redis: Any) -> set[str]:
    """The models that have events; raises StoreUnavailable."""
    try:
        return {name.decode() for name in await redis.smembers(MODELS)}
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable(f"the event log does not answer: {error}") from error


def fresh(progress: Progress, entry: Entry) -> range:
    """Takes an entry in; the places in it of events that were not taken in before."""
    copies = progress.take(entry.position, entry.writer, entry.first, entry.count)
    return range(copies, entry.count)


def _order(position: str) -> tuple[int, int]:
    milliseconds, _, number = position.partition("-")
    return int(milliseconds), int(number or 0)
