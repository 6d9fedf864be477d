"""Decides which calls the event log records, and keeps them until the recorder takes them.

What happens on the call's path is here and is little: a look at the route, and for a recorded call
its trail of attempts. All that comes after it, the recorder does, in a process of its own; what it
cannot keep up with is dropped and counted.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from gateway.call import Answer, Call
from modelyard.catalog import Catalog, Route
from modelyard.errors import ModelyardError
from modelyard.events.calls import Failed
from modelyard.events.sampling import share_of

# What waits, at most: calls that are over and not yet written, and bytes of their payloads.
MOST_WAITING, MOST_BYTES = 10_000, 64 << 20
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
        failure: Of what it failed, reason and message; None where it was answered.
    """

    call: Call
    catalog: Catalog
    began: float
    time: float
    ended: float = 0.0
    answer: Answer | None = None
    failure: Failed | None = None

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
    """

    def __init__(self, catalog: Callable[[], Catalog], clock: Callable[[], float]) -> None:
        self._catalog = catalog
        self._clock = clock
        self._rates: dict[str, tuple[Route, float]] = {}
        # Those that the recorder has not taken yet; of them, those whose attempts are over.
        self._left = 0
        self._over: deque[Recording] = deque()
        self._filled = asyncio.Event()
        self._bytes = 0
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
        # Not the error: its traceback would keep every frame of the call alive while it waits.
        recording.failure = None if error is None else _failure(error)
        full = self.waiting >= MOST_WAITING or self._bytes + recording.size > MOST_BYTES
        self.counts.recorded += 1
        if full:
            self.counts.dropped += 1
            return
        self._left += 1
        self._bytes += recording.size
        if all(made.outcome for made in recording.call.trail or ()):
            self._put(recording)
        else:
            asyncio.get_running_loop().call_later(_SETTLE, self._put, recording)

    def _put(self, recording: Recording) -> None:
        self._over.append(recording)
        self._filled.set()

    async def filled(self) -> None:
        """Returns when there is something to take."""
        await self._filled.wait()

    def take(self, count: int) -> list[Recording]:
        """Those that have waited longest, at most `count`; each is `done` some time."""
        taken = [self._over.popleft() for _ in range(min(count, len(self._over)))]
        self._left -= len(taken)
        if not self._over:
            self._filled.clear()
        return taken

    def done(self, size: int, *, written: int = 0, dropped: int = 0) -> None:
        """Counts what became of recordings, whose payloads had so many bytes."""
        self.counts.written += written
        self.counts.dropped += dropped
        self._bytes -= size

    @property
    def left(self) -> int:
        """How many calls that are over were not taken yet."""
        return self._left

    @property
    def waiting(self) -> int:
        """How many calls that are over are neither written nor dropped yet."""
        return self.counts.recorded - self.counts.written - self.counts.dropped


def _failure(error: BaseException) -> Failed:
    match error:
        case ModelyardError():
            return error.reason, error.message
        case asyncio.CancelledError():
            return "CANCELLED", "the caller gave up"
        case _:
            return "INTERNAL", type(error).__name__
