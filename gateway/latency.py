"""Recent latencies, and from them the moment at which a hedge is worth its load.

After Finagle's BackupRequestFilter: the trigger is a quantile of the last 30 s, in three windows
of 10 s, looked up anew every 3 s, never under 1 ms and, above 2 s, not at all.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.meter import bucket, quantile
from modelyard.names import VersionName

WINDOW, WINDOWS, REFRESH, SOON = 10.0, 3, 3.0, 0.2
SHORTEST, LONGEST = 1e-3, 2.0
# Fewer latencies tell too little of a tail.
LEAST_DATA, LEAST_OF_A_REPLICA = 50, 200
# Of the load that is allowed, so much is aimed at; the rest is room for chance, because a call
# that is refused its hedge is one that sits in the tail.
AIM = 0.75


class Window:
    """The latencies of the last 20 to 30 s, counted in buckets."""

    __slots__ = ("_counts", "_turn")

    def __init__(self) -> None:
        self._counts: list[dict[int, int]] = [{} for _ in range(WINDOWS)]
        self._turn = 0

    def add(self, seconds: float, now: float) -> None:
        """Counts one."""
        self._advance(now)
        counts = self._counts[self._turn % WINDOWS]
        index = bucket(seconds)
        counts[index] = counts.get(index, 0) + 1

    def counts(self, now: float) -> dict[int, int]:
        """All that are recent, by bucket."""
        self._advance(now)
        return merged(self._counts)

    def _advance(self, now: float) -> None:
        turn = int(now / WINDOW)
        if turn != self._turn:
            for gone in range(max(self._turn + 1, turn - WINDOWS + 1), turn + 1):
                self._counts[gone % WINDOWS] = {}
            self._turn = turn


def merged(many: Iterable[dict[int, int]]) -> dict[int, int]:
    """The sum of several counts."""
    total: dict[int, int] = {}
    for counts in many:
        for index, count in counts.items():
            total[index] = total.get(index, 0) + count
    return total


@dataclass(frozen=True, slots=True)
class Trigger:
    """When a hedge starts, and how long half of the attempts take; both in seconds."""

    delay: float
    median: float


def size_class(payload: int) -> int:
    """Payloads of one class differ by less than a factor of 4; in bytes."""
    return payload.bit_length() // 2


class Latencies:
    """The recent latencies of each version, replica and class of payload size."""

    def __init__(self) -> None:
        self._windows: dict[tuple[VersionName, int], dict[str, Window]] = {}
        self._triggers: dict[tuple[VersionName, int, float], tuple[float, Trigger | None]] = {}

    def add(self, version: VersionName, host: str, size: int, seconds: float, now: float) -> None:
        """Counts an attempt that answered; or one that was given up, as far as it was seen."""
        key = (version, size)
        windows = self._windows.get(key)
        if windows is None:
            windows = self._windows[key] = {}
        window = windows.get(host)
        if window is None:
            window = windows[host] = Window()
        window.add(seconds, now)

    def forget(self, version: VersionName, host: str) -> None:
        """Drops what is known of a replica that is gone."""
        for key in [k for k in self._windows if k[0] == version]:
            self._windows[key].pop(host, None)
            if not self._windows[key]:
                del self._windows[key]

    def trigger(
        self, version: VersionName, size: int, extra_load: float, now: float
    ) -> Trigger | None:
        """When a hedge of so much extra load starts; None where none is worth it now."""
        key = (version, size, extra_load)
        known = self._triggers.get(key)
        if known is not None and now < known[0]:
            return known[1]
        found = self._look(version, size, 1.0 - AIM * extra_load, now)
        if len(self._triggers) >= 4096:
            self._triggers.clear()
        # What is not known yet may be known soon.
        self._triggers[key] = (now + (REFRESH if found else SOON), found)
        return found

    def median(self, version: VersionName, size: int, now: float) -> float:
        """How long half of the attempts take, in seconds; 0 where too little is known."""
        found = self.trigger(version, size, 0.5, now)
        return found.median if found else 0.0

    def _look(self, version: VersionName, size: int, q: float, now: float) -> Trigger | None:
        windows = self._windows.get((version, size))
        if windows is None:
            return None
        by_host = {host: window.counts(now) for host, window in windows.items()}
        for host in [host for host, counts in by_host.items() if not counts]:
            del windows[host]  # A host that is gone, or gets no calls.
        pooled = merged(by_host.values())
        if sum(pooled.values()) < LEAST_DATA:
            return None
        delay = quantile(pooled, q)
        # One slow replica must not lift the trigger for calls to the others, nor keep itself
        # from being hedged (Cassandra's speculative retry had to learn it).
        for counts in by_host.values():
            if sum(counts.values()) >= LEAST_OF_A_REPLICA:
                delay = min(delay, quantile(counts, q))
        if not math.isfinite(delay) or delay > LONGEST:
            return None
        return Trigger(max(delay, SHORTEST), quantile(pooled, 0.5))
