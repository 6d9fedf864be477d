"""How many attempts a version gets at a time: as many as it answers without queueing.

The limit follows Netflix's Gradient2 (concurrency-limits): the long-term latency over the recent
one says whether a queue builds; the limit shrinks by that and grows by a small allowance. Its
published knobs: smoothing 0.2, queue 4, tolerance 1.5, a long window of 600 samples, a gradient
between 0.5 and 1, no growth while less than half is used.

What is beyond the limit waits here, the more important first, where it costs nothing and can
still turn to another version, instead of in the host's queue, where it cannot. An attempt that
by the present pace would wait past its deadline is refused at once; so is one of a caller that
said its calls may be shed.
"""

import asyncio
import heapq
import itertools
import math
from datetime import timedelta
from enum import IntEnum

from modelyard.errors import Overloaded

INITIAL, LEAST, MOST = 50, 20, 1000
SMOOTHING, QUEUE, TOLERANCE, LONG_WINDOW = 0.2, 4.0, 1.5, 600
# The limit is looked at after so many answers and at least so many seconds.
SAMPLES, PERIOD = 10, 0.1
# More than this waits nowhere.
LONGEST_QUEUE = 10_000


class Priority(IntEnum):
    """Whose attempts come first; `modelyard-priority` in a caller's metadata."""

    CRITICAL = 0
    DEFAULT = 1
    SHEDDABLE = 2


class Gradient2:
    """The limit. Pure but for what it was told.

    Args:
        share: Of the whole that one of several processes has, each of which gets its share of the
            calls: all knobs that are counts are so much smaller, and the sum moves as one.
    """

    __slots__ = ("_count", "_long", "_seen", "_share", "_since", "_sum", "limit")

    def __init__(self, share: float = 1.0) -> None:
        self._share = share
        self.limit = INITIAL * share
        self._long = 0.0
        self._seen = 0
        self._sum = 0.0
        self._count = 0
        self._since = -math.inf

    @property
    def latency(self) -> float:
        """The long-term mean latency, in seconds; 0 before the first look."""
        return self._long

    def observe(self, seconds: float, in_flight: int, now: float) -> None:
        """Takes in the latency of an answer, and how many were under way when it came."""
        self._sum += seconds
        self._count += 1
        if self._count >= SAMPLES and now - self._since >= PERIOD:
            self._look(self._sum / self._count, in_flight)
            self._sum, self._count, self._since = 0.0, 0, now

    def _look(self, recent: float, in_flight: int) -> None:
        self._seen += 1
        weight = 2.0 / (min(self._seen, LONG_WINDOW) + 1.0)
        self._long += (recent - self._long) * weight
        # After a long overload the long-term latency comes down faster than it would by itself.
        if self._long > 2.0 * recent:
            self._long *= 0.95
        if in_flight < self.limit / 2.0:
            return
        gradient = max(0.5, min(1.0, TOLERANCE * self._long / recent)) if recent else 1.0
        wanted = self.limit * gradient + QUEUE * self._share
        limit = self.limit * (1.0 - SMOOTHING) + wanted * SMOOTHING
        self.limit = max(LEAST * self._share, min(limit, MOST * self._share))


class Limiter:
    """The attempts on one version: those under way, and those that wait.

    Args:
        share: See `Gradient2`.
    """

    def __init__(self, share: float = 1.0) -> None:
        self.gradient = Gradient2(share)
        self.in_flight = 0
        self._waiting: list[tuple[Priority, int, asyncio.Future[None]]] = []
        self._gone = 0
        self._order = itertools.count()

    @property
    def has_room(self) -> bool:
        """Tells whether an attempt may begin at once."""
        return self.in_flight < self.gradient.limit

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting) - self._gone

    async def enter(self, priority: Priority, remaining: float) -> None:
        """Waits until there is room, and takes it.

        Args:
            priority: The attempt's.
            remaining: Seconds that it has.

        Raises:
            Overloaded: It would wait for too long, may be shed, or waited in vain.
        """
        wait = (self.waiting + 1) * self.gradient.latency / self.gradient.limit
        if priority is Priority.SHEDDABLE or wait >= remaining or self.waiting >= LONGEST_QUEUE:
            raise _overloaded(max(wait, self.gradient.latency))
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._order), room))
        try:
            async with asyncio.timeout(remaining):
                await room
        except BaseException as error:
            if room.done() and not room.cancelled():
                # It was given the room in this very turn.
                self.leave()
            else:
                room.cancel()
                self._left()
            if isinstance(error, TimeoutError):
                raise _overloaded(self.gradient.latency) from None
            raise

    def leave(self) -> None:
        """Gives the room back."""
        self.in_flight -= 1
        if self._waiting:
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self.has_room:
            room = heapq.heappop(self._waiting)[2]
            if room.done():
                self._gone -= 1
            else:
                self.in_flight += 1
                room.set_result(None)

    def _left(self) -> None:
        """One gave up: it stays in the heap until many did."""
        self._gone += 1
        if self._gone > len(self._waiting) // 2:
            self._waiting = [w for w in self._waiting if not w[2].done()]
            heapq.heapify(self._waiting)
            self._gone = 0


def _overloaded(wait: float) -> Overloaded:
    return Overloaded(
        "the version has as many calls as it can answer in time",
        retry_after=timedelta(seconds=round(min(max(wait, 0.001), 60.0), 3)),
    )
