"""Decides which calls the event log records, and hands them over without waiting for anything.

What happens on the call's path is here and is little: a look at the route, and for a recorded call
its trail of attempts. Everything else (protobuf, redaction, Redis) happens later, elsewhere, and
is dropped and counted when it cannot keep up.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from gateway.call import Answer, Call
from modelyard.catalog import Catalog, Route
from modelyard.errors import ModelyardError
from modelyard.events.sampling import share_of

# What waits to be written, at most: records, and bytes of their payloads.
MOST_WAITING, MOST_BYTES = 10_000, 64 << 20
# What is worth a write: the same.
WRITE, WRITE_BYTES = 256, 8 << 20


@dataclass(slots=True)
class Recording:
    """A call under way that will be recorded.

    Attributes:
        call: The call.
        catalog: By which it is routed.
        began: When it arrived, on the gateway's clock.
        time: When it arrived, in Unix seconds.
        ended: When it was over, on the gateway's clock.
        answer: What it was answered; None where it failed.
        error: What it failed of; None where it was answered.
    """

    call: Call
    catalog: Catalog
    began: float
    time: float
    ended: float = 0.0
    answer: Answer | None = None
    error: BaseException | None = None

    @property
    def size(self) -> int:
        """The bytes of its payloads."""
        return len(self.call.payload) + (len(self.answer.payload) if self.answer else 0)


@dataclass(slots=True)
class Counts:
    """What became of recordings. Only ever grows.

    Attributes:
        recorded: Calls that were sampled.
        written: Those that are in the log.
        dropped: Those that are not: the log was away, or too slow.
    """

    recorded: int = 0
    written: int = 0
    dropped: int = 0


class Tap:
    """Records calls.

    Args:
        catalog: Gives the catalogue as it is now.
        clock: Seconds, monotonic.

    Attributes:
        counts: What became of recordings.
        under_way: Recordings that have begun and not ended.
    """

    def __init__(self, catalog: Callable[[], Catalog], clock: Callable[[], float]) -> None:
        self._catalog = catalog
        self._clock = clock
        self._rates: dict[str, tuple[Route, float]] = {}
        self._waiting: deque[Recording] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()
        self._enough = asyncio.Event()
        self._hurried = False
        self.counts = Counts()
        self.under_way = 0

    def begin(self, call: Call) -> Recording | None:
        """Begins to record a call, if its route wants that."""
        catalog = self._catalog()
        route = catalog.routes.get(call.model)
        if route is None:
            return None
        held = self._rates.get(call.model)
        if held is None or held[0] is not route:
            held = self._rates[call.model] = (route, route.recorded)
        rate = held[1]
        if not rate or (rate < 1.0 and share_of(call.request_id) >= rate):
            return None
        call.trail = []
        self.under_way += 1
        return Recording(call, catalog, self._clock(), time.time())

    def end(
        self, recording: Recording, answer: Answer | None, error: BaseException | None = None
    ) -> None:
        """Hands a recording over to be written; drops it where too many wait."""
        self.under_way -= 1
        recording.ended = self._clock()
        recording.answer = answer
        # Its traceback would keep every frame of the call alive while it waits.
        recording.error = error.with_traceback(None) if isinstance(error, ModelyardError) else error
        self.counts.recorded += 1
        size = recording.size
        if len(self._waiting) >= MOST_WAITING or self._bytes + size > MOST_BYTES:
            self.counts.dropped += 1
            return
        self._bytes += size
        self._waiting.append(recording)
        self._filled.set()
        if len(self._waiting) >= WRITE or self._bytes >= WRITE_BYTES:
            self._enough.set()

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

    def take(self, count: int, size: int) -> list[Recording]:
        """What has waited longest: at most `count`, and about `size` bytes; at least one."""
        taken: list[Recording] = []
        while self._waiting and len(taken) < count and size > 0:
            recording = self._waiting.popleft()
            size -= recording.size
            self._bytes -= recording.size
            taken.append(recording)
        if not self._waiting:
            self._filled.clear()
        if len(self._waiting) < WRITE and self._bytes < WRITE_BYTES:
            self._enough.clear()
        return taken

    @property
    def waiting(self) -> int:
        """How many wait to be written."""
        return len(self._waiting)
