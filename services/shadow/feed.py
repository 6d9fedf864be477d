"""Where the events of an evaluation come from: the log as it grows, or the archive."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from typing import Any

import structlog

from modelyard.backoff import Backoff
from modelyard.errors import StoreUnavailable
from modelyard.events.progress import Progress
from modelyard.events.reader import Reader, fresh
from modelyard.events.streams import decoded
from modelyard.events.v1 import event_pb2

_log = structlog.get_logger(__name__)

# Entries that are read at a time, and how long to wait where there are none, in seconds.
_ENTRIES, _IDLE = 8, 0.1
_BACKOFF = Backoff(first=0.1, factor=2.0, limit=5.0)


class LiveFeed:
    """The log as it grows.

    Args:
        reader: Reads the model's events.
        progress: How far it has come.
    """

    def __init__(self, reader: Reader, progress: Progress) -> None:
        self._reader = reader
        self.progress = progress

    async def ready(self) -> None:
        """Returns when no later event can be missed; raises StoreUnavailable."""
        await self._reader.open()

    async def batches(self) -> AsyncIterator[Sequence[event_pb2.Event]]:
        """Events, some at a time; an empty batch where there are none now."""
        failures = 0
        while True:
            try:
                entries = await self._reader.read(_ENTRIES)
            except StoreUnavailable as error:
                failures += 1
                if failures == 1:
                    _log.warning("the event log is away", error=error.message)
                await asyncio.sleep(_BACKOFF.wait(failures, random.Random()))
                yield []
                continue
            failures = 0
            if not entries:
                await asyncio.sleep(_IDLE)
            yield [e for entry in entries for e in decoded(entry, fresh(self.progress, entry))]

    def state(self) -> dict[str, Any]:
        """See `Feed.state`."""
        return asdict(self.progress)

    async def kept(self) -> None:
        """See `Feed.kept`. What cannot be acknowledged now will be with the next."""
        if self.progress.position in ("", "$"):
            return
        try:
            await self._reader.done(self.progress.position)
        except StoreUnavailable:
            _log.debug("not acknowledged yet")


class WindowFeed:
    """A part of the archive, from its beginning to its end.

    Args:
        events: Gives the events of the window, some at a time, without the first so many.
        done: How many were taken in already.
    """

    def __init__(
        self, events: Callable[[int], AsyncIterator[Sequence[event_pb2.Event]]], done: int
    ) -> None:
        self._events = events
        self._done = done
        self.progress = Progress(taken=done)

    async def batches(self) -> AsyncIterator[Sequence[event_pb2.Event]]:
        """Events, some at a time, and an end."""
        async for batch in self._events(self._done):
            self.progress.taken += len(batch)
            yield batch

    def state(self) -> dict[str, Any]:
        """See `Feed.state`."""
        return asdict(self.progress)

    async def kept(self) -> None:
        """See `Feed.kept`."""
