"""Decides which calls the event log records, and hands them over without waiting for anything.

What happens on the call's path is here and is little: a look at the route, and for a recorded call
its trail of attempts. It becomes a record a little later, with a few others: made at once, records
would keep the processor from the very callers that were just answered, and one by one each would
find its code gone from the caches; many together would hold up whoever calls meanwhile. They are
written later still, and dropped and counted when that cannot keep up.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from gateway.call import Answer, Call
from modelyard.catalog import Catalog, Route
from modelyard.errors import ModelyardError
from modelyard.events.sampling import share_of
from modelyard.events.v1 import event_pb2

_log = structlog.get_logger(__name__)

# What waits, at most: calls that are over and not yet written, and bytes of their payloads.
MOST_WAITING, MOST_BYTES = 10_000, 64 << 20
# What is worth a write, and what goes with one, at most: the same. A write is about a millisecond
# of the loop, of few records or of many; of more than these it would hold up calls longer.
WRITE, WRITE_BYTES = 128, 1 << 20
# So long, in seconds, calls that are over gather, and so many become records in a turn of the loop.
_GATHER, _AT_ONCE = 0.02, 16
# An attempt that lost its race is over soon after it; so long, in seconds, it is waited for.
_SETTLE = 0.05


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


@dataclass(frozen=True, slots=True)
class Record:
    """What is to be written of a call.

    Attributes:
        model: The model's name.
        size: The bytes of its payloads.
        event: It, without an id: serialized; or not yet, where a payload is to be put aside first.
    """

    model: str
    size: int
    event: bytes | event_pb2.Event


Make = Callable[[Recording], Record]


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
        make: Makes a record of a call that is over.

    Attributes:
        counts: What became of recordings.
    """

    def __init__(
        self, catalog: Callable[[], Catalog], clock: Callable[[], float], make: Make
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._make = make
        self._rates: dict[str, tuple[Route, float]] = {}
        # Those over that are no records yet; of them, those that nobody has looked at.
        self._ended = 0
        self._over: deque[Recording] = deque()
        self._waiting: deque[Record] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()
        self._enough = asyncio.Event()
        self._hurried = False
        self.counts = Counts()

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
        return Recording(call, catalog, self._clock(), time.time())

    def end(
        self, recording: Recording, answer: Answer | None, error: BaseException | None = None
    ) -> None:
        """Takes a recording over; it is written later, or dropped where too many wait."""
        recording.ended = self._clock()
        recording.answer = answer
        # Its traceback would keep every frame of the call alive while it waits.
        recording.error = error.with_traceback(None) if isinstance(error, ModelyardError) else error
        self.counts.recorded += 1
        if self.waiting >= MOST_WAITING or self._bytes + recording.size > MOST_BYTES:
            self.counts.dropped += 1
            return
        self._ended += 1
        self._bytes += recording.size
        if not self._over:
            asyncio.get_running_loop().call_later(_GATHER, self._make_some)
        self._over.append(recording)

    def _make_some(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(min(len(self._over), _AT_ONCE)):
            recording = self._over.popleft()
            if all(made.outcome for made in recording.call.trail or ()):
                self._keep(recording)
            else:
                loop.call_later(_SETTLE, self._keep, recording)
        if self._over:
            # After the calls that came meanwhile.
            loop.call_soon(self._make_some)

    def _keep(self, recording: Recording) -> None:
        self._ended -= 1
        try:
            record = self._make(recording)
        except Exception as error:
            # Whatever cannot be made fit to be stored must not be stored.
            self.counts.dropped += 1
            self._bytes -= recording.size
            _log.warning("a call is not recorded", error=type(error).__name__)
            return
        self._waiting.append(record)
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

    @property
    def waiting(self) -> int:
        """How many calls that are over are not yet taken to be written."""
        return self._ended + len(self._waiting)
