"""Carries one model's events from the log to the archive."""

import asyncio
import random
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import structlog

from modelyard.archive import tables
from modelyard.archive.schema import CALLS, FEEDBACK, SCHEMAS
from modelyard.backoff import Backoff
from modelyard.errors import StoreUnavailable
from modelyard.events.payloads import Payloads
from modelyard.events.progress import Progress
from modelyard.events.reader import Reader, fresh
from modelyard.events.streams import Entry
from modelyard.events.v1 import event_pb2 as pb
from services.archive.intake import Counts, Intake
from services.archive.partitions import Partition, Partitions

_log = structlog.get_logger(__name__)

GROUP = "archive"
# Few entries at a time: Redis answers nobody else meanwhile, and live calls feel its work.
_ENTRIES = 8
# When all is read, the next look comes after this part of the time for which rows may wait, or so
# many seconds: it takes as much of a processor as looks each second do, in fewer and longer pieces.
_PART, _PAUSE = 0.25, 5.0
_TIDY_EVERY = 600.0
_BACKOFF = Backoff(first=0.2, factor=2.0, limit=10.0)


@dataclass(frozen=True, slots=True)
class Flush:
    """When rows are written: whatever comes first.

    Attributes:
        rows: So many wait.
        size: So many bytes of payloads wait.
        seconds: The oldest has waited so long.
    """

    rows: int = 10_000
    size: int = 64 << 20
    seconds: float = 30.0


class Collector:
    """Carries one model's events.

    Args:
        model: The model's name.
        redis: Of the event log.
        partitions: The model's files.
        payloads: Large payloads; None where there are none.
        flush: When rows are written.
        retention: How long days are kept; None for ever.
    """

    def __init__(
        self,
        model: str,
        redis: Any,
        partitions: Partitions,
        payloads: Payloads | None,
        flush: Flush,
        retention: timedelta | None,
    ) -> None:
        self._model = model
        self._redis = redis
        self._partitions = partitions
        self._flush = flush
        self._retention = retention
        self._calls: defaultdict[str, list[pa.RecordBatch]] = defaultdict(list)
        self._feedback: defaultdict[str, list[pb.Event]] = defaultdict(list)
        self._size = 0
        self._since: float | None = None
        self._tidied_at = 0.0
        self._ending = asyncio.Event()
        self._pause = min(flush.seconds * _PART, _PAUSE)
        self.progress = Progress()
        self.counts = Counts()
        self._intake = Intake(partitions, payloads, self.counts)

    def end(self) -> None:
        """Has `run` write what waits, and return."""
        self._ending.set()

    async def run(self) -> None:
        """Carries events until `end`, through whatever is away meanwhile."""
        failures = 0
        while True:
            try:
                await self._carry()
                return
            except StoreUnavailable as error:
                failures += 1
                if failures == 1:
                    _log.warning("archiving waits", model=self._model, error=error.message)
                if self._ending.is_set():
                    return
                # Begun anew from what is surely in the archive: what waited comes again.
                await asyncio.sleep(_BACKOFF.wait(min(failures, 10), random.Random()))

    async def _carry(self) -> None:
        self._clear()
        self.progress = await asyncio.to_thread(self._partitions.open)
        reader = Reader(self._redis, GROUP, self._model, self.progress.position)
        while True:
            ending = self._ending.is_set()
            entries = await reader.read(_ENTRIES)
            for entry in entries:
                await self._take(entry)
            if len(entries) < _ENTRIES or self._intake.is_enough:
                await self._convert()
            if self._is_due() or (ending and not entries):
                await self._write()
                if self.progress.position:
                    await reader.done(self.progress.position)
            if ending and not entries:
                return
            if not entries:
                await self._tidy()
            if len(entries) < _ENTRIES:
                # All that there is was read. A question is work, too.
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pause):
                        await self._ending.wait()

    async def _take(self, entry: Entry) -> None:
        for event in await self._intake.take(entry, fresh(self.progress, entry)):
            self._feedback[tables.day_of(event)].append(event)
            self.counts.waiting += len(event.feedback.truths)
        if self._since is None:
            self._since = time.monotonic()

    async def _convert(self) -> None:
        if not self._intake:
            return
        calls = await self._intake.calls()
        for day, of_day in tables.by_day(calls):
            self._calls[day].append(of_day)
        self.counts.waiting += calls.num_rows
        self._size += tables.size_of(calls)

    def _is_due(self) -> bool:
        return self._since is not None and (
            self.counts.waiting >= self._flush.rows
            or self._size >= self._flush.size
            or time.monotonic() - self._since >= self._flush.seconds
        )

    async def _write(self) -> None:
        if self._since is None:
            return
        await self._convert()
        self.counts.written += await asyncio.to_thread(self._take_in)
        self.counts.rows += self.counts.waiting
        self._clear()

    def _take_in(self) -> int:
        """Writes what waits; gives the bytes that were written."""
        made: dict[Partition, pa.Table] = {}
        for day, calls in self._calls.items():
            made[CALLS, day] = tables.calls_table(calls)
        for day, events in self._feedback.items():
            made[FEEDBACK, day] = tables.feedback_table(events)
        return self._partitions.write(made, self.progress)

    def _clear(self) -> None:
        self._intake.clear()
        self._calls.clear()
        self._feedback.clear()
        self._size, self._since, self.counts.waiting = 0, None, 0

    async def _tidy(self) -> None:
        """Merges the files of days that are over, and removes days that are too old."""
        if time.monotonic() - self._tidied_at < _TIDY_EVERY:
            return
        self._tidied_at, now = time.monotonic(), datetime.now(UTC)
        if self._retention is not None:
            await asyncio.to_thread(self._partitions.expire, self._retention, now)
        today = now.strftime("%Y-%m-%d")
        for table in SCHEMAS:
            for day in await asyncio.to_thread(self._partitions.days, table):
                if day < today:
                    await asyncio.to_thread(self._partitions.merge, table, day)
