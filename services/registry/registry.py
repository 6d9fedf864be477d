"""The registry: the catalogue in memory, changed only through the log."""

import asyncio
import random
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeAlias

import structlog
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from modelyard.backoff import Backoff
from modelyard.catalog import Catalog, Change, Event
from modelyard.errors import Aborted, OutOfRange, StoreUnavailable, Unavailable
from services.registry.log import ChangeLog, Conflict

_log = structlog.get_logger(__name__)

Decision: TypeAlias = Callable[[Catalog], Event | None]

# A change is given up after so many seconds of conflicts or of a store that is away.
PATIENCE = 2.0
# Request ids that are remembered, the latest; each makes one change however often it comes.
REMEMBERED = 20_000
# A watcher that lags by more is cut off; it resumes from its revision.
WINDOW = 4096
_BACKOFF = Backoff(first=0.05, factor=2.0, limit=1.0)


class Lagging(Unavailable):
    """A watcher reads more slowly than changes come; it goes on from its revision."""

    reason = "LAGGING"


class Registry:
    """Keeps the catalogue at the end of the log, and extends both.

    Args:
        log: The log.
    """

    def __init__(self, log: ChangeLog) -> None:
        self._log = log
        self._writing = asyncio.Lock()
        self._watchers: set[asyncio.Queue[Change]] = set()
        self._closed = asyncio.Event()
        self._requests: OrderedDict[str, Change] = OrderedDict()
        self.catalog = Catalog()
        self.changes: list[Change] = []

    async def open(self) -> None:
        """Reads the log; tries until the store answers."""
        failures = 0
        while True:
            try:
                await self._catch_up()
                return
            except StoreUnavailable as error:
                failures += 1
                if failures == 1:
                    _log.warning("the store is away", error=error.message)
                await asyncio.sleep(_BACKOFF.wait(failures, random.Random()))

    async def follow(self) -> None:
        """Takes in what other registries write; never returns."""
        failures = 0
        while True:
            try:
                async for change in self._log.tail(self.catalog.revision):
                    failures = 0
                    self._take(change)
            except StoreUnavailable as error:
                failures += 1
                if failures == 1:
                    _log.warning("the store is away; reads go on", error=error.message)
                await asyncio.sleep(_BACKOFF.wait(failures, random.Random()))

    async def commit(
        self, decide: Decision, *, actor: str = "", note: str = "", request_id: str = ""
    ) -> Change | None:
        """Makes one change; returns it once it is durable, or None when nothing had to change.

        Args:
            decide: Asked again whenever another writer came first.
            actor: Who asked.
            note: Why.
            request_id: The same one again gives the change that it made the first time.

        Raises:
            StoreUnavailable: It is not known to be made. Asking again with the same request id
                is safe.
            Aborted: Other writers came first, again and again.
            ModelyardError: What `decide` raises.
        """
        request_id = request_id or f"auto-{uuid.uuid4()}"
        try:
            async with self._writing:
                async for attempt in AsyncRetrying(
                    retry=retry_if_exception_type((Conflict, StoreUnavailable)),
                    stop=stop_after_delay(PATIENCE),
                    wait=wait_random_exponential(multiplier=0.02, max=0.5),
                    reraise=True,
                ):
                    with attempt:
                        if attempt.retry_state.attempt_number > 1:
                            # Also tells whether a write whose answer was lost was made after all.
                            await self._catch_up()
                        return await self._try(decide, actor, note, request_id)
        except Conflict:
            raise Aborted("other writers came first, again and again") from None
        raise AssertionError("the last attempt raises")

    async def _try(self, decide: Decision, actor: str, note: str, request_id: str) -> Change | None:
        known = self._requests.get(request_id)
        if known is not None:
            return known
        event = decide(self.catalog)
        if event is None:
            return None
        change = Change(
            self.catalog.revision + 1, datetime.now(UTC), event, actor, note, request_id
        )
        await self._log.append(change)
        self._take(change)
        return self.changes[change.revision - 1]

    async def _catch_up(self) -> None:
        for change in await self._log.read(self.catalog.revision):
            self._take(change)

    def close(self) -> None:
        """Ends every watch: a watcher goes on from its revision elsewhere."""
        self._closed.set()

    def made(self, request_id: str) -> Change | None:
        """The change that a request made, if it made one."""
        return self._requests.get(request_id) if request_id else None

    def after(self, change: Change | None) -> Catalog:
        """A catalogue with a change's model as the change left it; as it is now without one.

        Who asks again, or asks while others write, is answered with what it did, not with what
        became of it.
        """
        if change is None or change.revision == self.catalog.revision:
            return self.catalog
        catalog = Catalog()
        for past in self.changes[: change.revision]:
            if past.model == change.model:
                catalog = replace(catalog, revision=past.revision - 1).apply(past)
        return catalog

    def _take(self, change: Change) -> None:
        if change.revision <= self.catalog.revision:
            return
        self.catalog = self.catalog.apply(change)
        self.changes.append(change)
        self._requests[change.request_id] = change
        if len(self._requests) > REMEMBERED:
            self._requests.popitem(last=False)
        for watcher in tuple(self._watchers):
            try:
                watcher.put_nowait(change)
            except asyncio.QueueFull:
                self._watchers.discard(watcher)

    async def watch(self, after: int, quiet: float) -> AsyncIterator[Change | None]:
        """Every change after a revision, as it comes; None after `quiet` seconds without one.

        Raises:
            OutOfRange: The revision was never reached.
            Lagging: The reader is too slow.
        """
        if not 0 <= after <= self.catalog.revision:
            raise OutOfRange(
                f"revision {after} never was; the newest is {self.catalog.revision}",
                revision=str(self.catalog.revision),
            )
        queue: asyncio.Queue[Change] = asyncio.Queue(WINDOW)
        self._watchers.add(queue)
        try:
            for change in self.changes[after:]:
                after = change.revision
                yield change
            while not self._closed.is_set():
                waiting = asyncio.create_task(queue.get())
                closed = asyncio.create_task(self._closed.wait())
                try:
                    await asyncio.wait(
                        {waiting, closed}, timeout=quiet, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    closed.cancel()
                    if not waiting.done():
                        waiting.cancel()
                if not waiting.done() or waiting.cancelled():
                    yield None
                    continue
                change = waiting.result()
                if change.revision <= after:
                    continue
                if change.revision > after + 1:
                    raise Lagging("read more slowly than changes come; resume", revision=str(after))
                after = change.revision
                yield change
                if queue not in self._watchers and queue.empty():
                    raise Lagging("read more slowly than changes come; resume", revision=str(after))
        finally:
            self._watchers.discard(queue)
