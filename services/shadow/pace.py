"""When replays begin: so many at a time, so many a second, and with rests between."""

import asyncio
import time
from typing import Final

# To read a request and to compare its answers is work, too: so much of it; in seconds.
_BESIDE: Final = 0.0005
# So much is worked before a rest, in seconds. Ten turns of a millisecond, each with its rest, slow
# more calls than ten in a row do: each of them wakes processes and meets some call; one of a few
# milliseconds touches two.
_AT_ONCE: Final = 0.1
# After a turn that failed comes no longer rest: what was given up took long, and what fails always
# shall not take hours to be rejected. In seconds.
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
        # Since the last rest.
        self._worked = 0.0

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
        self._worked += worked + _BESIDE
        rest = 0.0
        if self._worked >= _AT_ONCE:
            rest = self._worked * self._rest
            self._worked = 0.0
        if failed:
            rest = min(rest, _LONGEST)
        if rest:
            asyncio.get_running_loop().call_later(rest, self._room.release)
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
