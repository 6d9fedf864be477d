"""Tells when a host has lost its supervisor: a file that is no longer touched.

A host outlives its supervisor for a while, so that a restarted one can adopt it. The age of
the touch is counted on this process's monotonic clock from the moment it was seen, so that
a wall clock set anew, or a machine that slept, orphans nobody.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

_PERIOD = 1.0


class Heartbeat:
    """The supervisor's last sign of life, as seen from here.

    Args:
        grace: How long to go on without one, in seconds.
        now: On a monotonic clock.
    """

    def __init__(self, grace: float, now: float) -> None:
        self._grace = grace
        self._touched: int | None = None
        self._seen = now

    def lost(self, touched: int | None, now: float) -> bool:
        """Tells whether the grace is over, given when the file was touched (None: no file)."""
        if touched is not None and touched != self._touched:
            self._touched, self._seen = touched, now
        return now - self._seen > self._grace


def touched(file: Path) -> int | None:
    """When the file was last touched, in nanoseconds; None where there is none."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


async def orphaned(
    file: Path,
    grace: float,
    clock: Callable[[], float] = time.monotonic,
    period: float = _PERIOD,
) -> None:
    """Returns once the supervisor has given no sign of life for `grace` seconds."""
    heartbeat = Heartbeat(grace, clock())
    while not heartbeat.lost(touched(file), clock()):
        await asyncio.sleep(period)
