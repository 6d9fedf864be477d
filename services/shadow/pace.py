"""When replays begin: so many at a time, so many a second, and with rests between."""

import asyncio
import time
from typing import Final

# To read a request and to compare its answers is work, too: about so much, in seconds.
_BESIDE: Final = 0.0005
# So much is worked before a rest, in seconds. A turn of a millisecond meets a call or two wherever
# it falls, and ten in a row meet fewer than ten apart.
_AT_ONCE: Final = 0.1
# A turn that failed is rested from so long at most, in seconds: what was given up took long, and
# one that hangs now and then would spend most of its evaluation's time on that.
_LONGEST: Final = 20.0


class Pace:
    """Gives turns.

    Args:
        concurrency: Turns at a time.
        max_rate: Turns a second at most; 0 for no limit.
        share: Each of those at a time works in this share of the time, and rests in the remainder:
            a tenth of a second of work, or a longer turn, then the rest from it.
    """

    def __init__(self, concurrency: int, max_rate: float, share: float) -> None:
        self._room = asyncio.Semaphore(concurrency)
        self._gap = 1.0 / max_rate if max_rate else 0.0
        # How much rest comes after a second of work.
        self._rest = 1.0 / share - 1.0
        self._next_start = 0.0
        # Of rest, in seconds: how much is owed, and from how much on it is taken.
        self._owed, self._enough = 0.0, _AT_ONCE * self._rest

    async def begin(self) -> None:
        """Waits for a turn; `end` follows, unless this is cancelled."""
        await self._room.acquire()
        now = asyncio.get_running_loop().time()
        start = max(now, self._next_start)
        self._next_start = start + self._gap
        try:
            await asyncio.sleep(start - now)
        except asyncio.CancelledError:
            self._room.release()
            raise

    def end(self, worked: float, *, failed: bool) -> None:
        """Ends a turn that worked so many seconds; a rest may come before the next in its place."""
        rest = (worked + _BESIDE) * self._rest
        self._owed += min(rest, _LONGEST) if failed else rest
        if self._owed > self._enough:
            asyncio.get_running_loop().call_later(self._owed, self._room.release)
            self._owed = 0.0
        else:
            self._room.release()


class Rate:
    """How many a second there are, of late."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def measure(self, count: int) -> float | None:
        """Takes a count; gives the rate over the last ten, None where no time has passed."""
        now = time.monotonic()
        self._seen = [*self._seen[-10:], (now, count)]
        began, before = self._seen[0]
        return (count - before) / (now - began) if now > began else None
