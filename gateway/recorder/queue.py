"""Records that wait to be written."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from modelyard.events.calls import Facts

# What is worth a write, and what goes with one, at most: the same. One entry of some costs little
# more than one of one, and Redis cuts a log that is full by whole entries.
WRITE, WRITE_BYTES = 128, 1 << 20


class Record(NamedTuple):
    """A call as it may be stored.

    Attributes:
        facts: It.
        size: The bytes of its payloads, as the gateway counts them.
    """

    facts: Facts
    size: int


@dataclass(slots=True)
class Done:
    """What became of records since the gateway was told.

    Attributes:
        written: Those that are in the log.
        dropped: Those that are not.
        size: The bytes of their payloads.
    """

    written: int = 0
    dropped: int = 0
    size: int = 0


class Queue:
    """Records, in the order of their coming. Its bounds are the gateway's, which counts them."""

    def __init__(self) -> None:
        self._waiting: deque[Record] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()
        self._enough = asyncio.Event()
        self._hurried = False
        self._done = Done()
        self._news = asyncio.Event()

    def put(self, records: Sequence[Record]) -> None:
        """Takes some over."""
        self._waiting.extend(records)
        self._bytes += sum(record.size for record in records)
        if self._waiting:
            self._filled.set()
        if len(self._waiting) >= WRITE or self._bytes >= WRITE_BYTES:
            self._enough.set()

    def __len__(self) -> int:
        return len(self._waiting)

    async def filled(self) -> None:
        """Returns when something waits."""
        await self._filled.wait()

    async def enough(self, seconds: float) -> None:
        """Returns when what waits is worth a write, or after so long; at once from `hurry` on."""
        if not self._hurried:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._enough.wait()

    def hurry(self) -> None:
        """Nothing more comes: what waits is to be written now."""
        self._hurried = True
        self._enough.set()

    def take(self, count: int, size: int) -> list[Record]:
        """What has waited longest: at most `count`, and about `size` bytes; at least one."""
        taken: list[Record] = []
        while self._waiting and len(taken) < count and size > 0:
            record = self._waiting.popleft()
            size -= record.size
            self._bytes -= record.size
            taken.append(record)
        if not self._waiting:
            self._filled.clear()
        if len(self._waiting) < WRITE and self._bytes < WRITE_BYTES:
            self._enough.clear()
        return taken

    def done(self, size: int, *, written: int = 0, dropped: int = 0) -> None:
        """Notes what became of records, whose payloads had so many bytes."""
        self._done.written += written
        self._done.dropped += dropped
        self._done.size += size
        self._news.set()

    async def news(self) -> Done:
        """What became of records since the last time; waits until there is something."""
        await self._news.wait()
        return self.rest()

    def rest(self) -> Done:
        """What became of records since the last time."""
        self._news.clear()
        done, self._done = self._done, Done()
        return done
