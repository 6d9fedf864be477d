"""Counts the calls of each version, cheaply enough for every call.

Latencies go into buckets that grow by 2^(1/8), so a quantile is read within 9 % of its value.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from gateway.plan import Kind
from modelyard.names import VersionName

BUCKETS_A_DOUBLING: Final = 8
# The first bucket ends at 1 us; the last begins at about 16 minutes.
_LAST = 30 * BUCKETS_A_DOUBLING


def bucket(seconds: float) -> int:
    """The bucket of a latency."""
    micros = seconds * 1e6
    if micros <= 1.0:
        return 0
    return min(math.ceil(math.log2(micros) * BUCKETS_A_DOUBLING), _LAST)


def upper_bound(index: int) -> float:
    """The longest latency of a bucket, in seconds."""
    return float(2.0 ** (index / BUCKETS_A_DOUBLING)) / 1e6


def quantile(counts: Mapping[int, int], q: float) -> float:
    """The latency that a share `q` of the calls did not exceed, in seconds; 0 without calls."""
    total = sum(counts.values())
    rank, seen = math.ceil(q * total), 0
    for index in sorted(counts):
        seen += counts[index]
        if seen >= rank:
            return upper_bound(index)
    return 0.0


@dataclass(slots=True)
class Attempts:
    """The attempts of one kind on one version. Only ever grows.

    Attributes:
        started: All of them.
        won: Their answer was the caller's.
        failed: They ended in an error.
        cancelled: They were given up, or answered too late.
    """

    started: int = 0
    won: int = 0
    failed: int = 0
    cancelled: int = 0

    def add(self, other: "Attempts") -> None:
        """Counts all that another one has counted."""
        self.started += other.started
        self.won += other.won
        self.failed += other.failed
        self.cancelled += other.cancelled

    def since(self, before: "Attempts") -> "Attempts":
        """What came after an earlier copy."""
        return Attempts(
            self.started - before.started,
            self.won - before.won,
            self.failed - before.failed,
            self.cancelled - before.cancelled,
        )


@dataclass(slots=True)
class Tally:
    """The calls of one version, or of a model where no version answered. Only ever grows.

    Attributes:
        succeeded: Calls that it answered.
        failed: Calls that it was chosen for, and that failed.
        exhausted: Retries and hedges that the budget did not pay for.
        seconds: Of all answered calls.
        latencies: Of answered calls, by bucket.
        attempts: By kind.
    """

    succeeded: int = 0
    failed: int = 0
    exhausted: int = 0
    seconds: float = 0.0
    latencies: dict[int, int] = field(default_factory=dict)
    attempts: dict[Kind, Attempts] = field(default_factory=dict)

    def since(self, before: "Tally") -> "Tally":
        """What came after an earlier copy."""
        latencies = {
            index: count - before.latencies.get(index, 0)
            for index, count in self.latencies.items()
            if count > before.latencies.get(index, 0)
        }
        nothing = Attempts()
        attempts = {
            kind: counted.since(before.attempts.get(kind, nothing))
            for kind, counted in self.attempts.items()
        }
        return Tally(
            self.succeeded - before.succeeded,
            self.failed - before.failed,
            self.exhausted - before.exhausted,
            self.seconds - before.seconds,
            latencies,
            attempts,
        )

    def add(self, other: "Tally") -> None:
        """Counts all that another one has counted."""
        self.succeeded += other.succeeded
        self.failed += other.failed
        self.exhausted += other.exhausted
        self.seconds += other.seconds
        for index, count in other.latencies.items():
            self.latencies[index] = self.latencies.get(index, 0) + count
        for kind, counted in other.attempts.items():
            self.of(kind).add(counted)

    def copy(self) -> "Tally":
        """A copy that stays as it is."""
        return self.since(Tally())

    def of(self, kind: Kind) -> Attempts:
        """The attempts of a kind, to be counted on."""
        attempts = self.attempts.get(kind)
        if attempts is None:
            attempts = self.attempts[kind] = Attempts()
        return attempts


# A model, and the version's number; 0 where no version answered.
Key: TypeAlias = tuple[str, int]
# The model of calls that name one which is not there.
NOBODY: Final = ""


class Meter:
    """The tallies of every version since the gateway began."""

    def __init__(self) -> None:
        self._tallies: dict[Key, Tally] = {}

    def of(self, key: Key) -> Tally:
        """The tally of a version, to be counted on."""
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally()
        return tally

    def answered(self, key: Key, seconds: float) -> None:
        """Counts a call that succeeded."""
        tally = self.of(key)
        tally.succeeded += 1
        tally.seconds += seconds
        index = bucket(seconds)
        tally.latencies[index] = tally.latencies.get(index, 0) + 1

    def failed(self, key: Key) -> None:
        """Counts a call that failed."""
        self.of(key).failed += 1

    def started(self, key: Key, kind: Kind) -> None:
        """Counts an attempt that was made."""
        self.of(key).of(kind).started += 1

    def won(self, key: Key, kind: Kind) -> None:
        """Counts an attempt whose answer the caller gets."""
        self.of(key).of(kind).won += 1

    def attempt_failed(self, key: Key, kind: Kind) -> None:
        """Counts an attempt that failed."""
        self.of(key).of(kind).failed += 1

    def cancelled(self, key: Key, kind: Kind) -> None:
        """Counts an attempt that was given up."""
        self.of(key).of(kind).cancelled += 1

    def exhausted(self, version: VersionName) -> None:
        """Counts a retry or a hedge that was not made because the budget was spent."""
        self.of((version.model, version.number)).exhausted += 1

    def copy(self) -> dict[Key, Tally]:
        """All tallies as they are now."""
        return {key: tally.copy() for key, tally in self._tallies.items()}


def differences(now: Mapping[Key, Tally], before: Mapping[Key, Tally]) -> dict[Key, Tally]:
    """What each tally counted between two copies."""
    nothing = Tally()
    return {key: tally.since(before.get(key, nothing)) for key, tally in now.items()}


def summed(many: Iterable[Mapping[Key, Tally]]) -> dict[Key, Tally]:
    """Several copies as one."""
    whole: dict[Key, Tally] = {}
    for tallies in many:
        for key, tally in tallies.items():
            whole.setdefault(key, Tally()).add(tally)
    return whole
