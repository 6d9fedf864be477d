"""Carries one model's events from the log to the archive."""

import asyncio
import random
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from modelyard.archive.rows import call_row, day_of, feedback_rows
from modelyard.archive.schema import CALLS, FEEDBACK, SCHEMAS
from modelyard.backoff import Backoff
from modelyard.errors import BlobNotFound, StoreUnavailable
from modelyard.events.payloads import Payloads
from modelyard.events.progress import Progress
from modelyard.events.reader import Entry, Reader, fresh
from modelyard.events.v1 import event_pb2
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


@dataclass(slots=True)
class Counts:
    """What became of a model's events, since this process began.

    Attributes:
        rows: Written to the archive.
        written: Bytes of files.
        spoilt: No events; set aside.
        missing: Payloads that were gone before they could be archived.
        waiting: Rows that are not written yet.
    """

    rows: int = 0
    written: int = 0
    spoilt: int = 0
    missing: int = 0
    waiting: int = 0


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
        self._payloads = payloads
        self._flush = flush
        self._retention = retention
        self._rows: defaultdict[Partition, list[dict[str, Any]]] = defaultdict(list)
        self._size = 0
        self._since: float | None = None
        self._tidied_at = 0.0
        self._ending = asyncio.Event()
        self._pause = min(flush.seconds * _PART, _PAUSE)
        self.progress = Progress()
        self.counts = Counts()

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
        if entry.spoilt:
            self.counts.spoilt += len(entry.spoilt)
            await asyncio.to_thread(self._partitions.set_aside, entry.position, entry.spoilt)
        for event in fresh(self.progress, entry):
            day = day_of(event)
            if event.HasField("feedback"):
                self._rows[(FEEDBACK, day)] += feedback_rows(event)
            else:
                request = await self._bytes(event.call.request)
                response = await self._bytes(event.call.response)
                self._rows[(CALLS, day)].append(call_row(event, request, response))
                self._size += len(request or b"") + len(response or b"")
        if self._since is None:
            self._since = time.monotonic()
        self.counts.waiting = sum(map(len, self._rows.values()))

    async def _bytes(self, payload: event_pb2.Payload) -> bytes | None:
        match payload.WhichOneof("place"):
            case "inline":
                return payload.inline
            case "reference" if self._payloads is not None:
                try:
                    return await self._payloads.get(payload)
                except BlobNotFound:
                    self.counts.missing += 1
        return None

    def _is_due(self) -> bool:
        return self._since is not None and (
            self.counts.waiting >= self._flush.rows
            or self._size >= self._flush.size
            or time.monotonic() - self._since >= self._flush.seconds
        )

    async def _write(self) -> None:
        if self._since is None:
            return
        rows = sum(map(len, self._rows.values()))
        self.counts.written += await asyncio.to_thread(
            self._partitions.write, dict(self._rows), self.progress.copy()
        )
        self.counts.rows += rows
        self._clear()

    def _clear(self) -> None:
        self._rows.clear()
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
