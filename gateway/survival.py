"""The share of attempts that have answered by each moment, with those that were cancelled.

A loser is cancelled before it ends: one knows only that it would have taken longer (it is
right-censored). Leaving losers out makes the tail look far shorter than it is. The
Kaplan-Meier estimate (*Nonparametric estimation from incomplete observations*, 1958) counts
each as far as it was seen. An attempt that failed never answers: it stays at risk for ever.
Intervals: Greenwood's variance on the log-log scale (Kalbfleisch and Prentice, 1980).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.meter import bucket, upper_bound

# The 97.5 % quantile of the normal distribution.
_Z = 1.959964
# At so many attempts all counts are halved, so that curves forget.
MOST = 200_000


@dataclass(slots=True)
class Observed:
    """What became of the attempts on a version: counts by bucket of elapsed time."""

    answered: dict[int, int] = field(default_factory=dict)
    cancelled: dict[int, int] = field(default_factory=dict)
    failed: int = 0
    seen: int = 0

    def answer(self, seconds: float) -> None:
        """Counts an answer."""
        self._count()
        index = bucket(seconds)
        self.answered[index] = self.answered.get(index, 0) + 1

    def cancel(self, seconds: float) -> None:
        """Counts one that was cancelled after so long."""
        self._count()
        index = bucket(seconds)
        self.cancelled[index] = self.cancelled.get(index, 0) + 1

    def fail(self) -> None:
        """Counts one that failed."""
        self._count()
        self.failed += 1

    def plus(self, other: "Observed") -> "Observed":
        """Both together."""
        return Observed(
            _sum(self.answered, other.answered),
            _sum(self.cancelled, other.cancelled),
            self.failed + other.failed,
            self.seen + other.seen,
        )

    @property
    def total(self) -> int:
        """All attempts."""
        return sum(self.answered.values()) + sum(self.cancelled.values()) + self.failed

    def _count(self) -> None:
        self.seen += 1
        if self.seen >= MOST:
            # What is old weighs less: half, again and again.
            self.answered, self.cancelled = _halved(self.answered), _halved(self.cancelled)
            self.failed //= 2
            self.seen = self.total + 1


def _halved(counts: Mapping[int, int]) -> dict[int, int]:
    return {index: half for index, count in counts.items() if (half := count // 2)}


def _sum(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    return {index: one.get(index, 0) + other.get(index, 0) for index in one.keys() | other.keys()}


@dataclass(frozen=True, slots=True)
class Point:
    """One moment: the share that has answered by then, and its 95 % interval."""

    after: float
    answered: float
    lower: float
    upper: float


def curve(observed: Observed) -> tuple[Point, ...]:
    """The Kaplan-Meier estimate, at the end of each bucket in which something was answered."""
    at_risk = observed.total
    points: list[Point] = []
    surviving, variance = 1.0, 0.0
    for index in sorted(observed.answered.keys() | observed.cancelled.keys()):
        answers = observed.answered.get(index, 0)
        if answers and at_risk:
            surviving *= 1.0 - answers / at_risk
            if at_risk > answers:
                variance += answers / (at_risk * (at_risk - answers))
            lower, upper = _interval(surviving, variance)
            points.append(Point(upper_bound(index), 1.0 - surviving, lower, upper))
        # By convention what is cancelled in a bucket was at risk for all answers in it.
        at_risk -= answers + observed.cancelled.get(index, 0)
    return tuple(points)


def reached(points: tuple[Point, ...], after: float) -> Point:
    """Where a curve is at a moment, in seconds."""
    held = Point(0.0, 0.0, 0.0, 0.0)
    for point in points:
        if point.after > after:
            break
        held = point
    return held


def answered_by(points: tuple[Point, ...], after: float) -> float:
    """The share that has answered by a moment, in seconds."""
    return reached(points, after).answered


def _interval(surviving: float, variance: float) -> tuple[float, float]:
    """Of the share that has answered."""
    if not 0.0 < surviving < 1.0:
        return 1.0 - surviving, 1.0 - surviving
    spread = _Z * math.sqrt(variance) / abs(math.log(surviving))
    low = surviving ** math.exp(min(spread, 700.0))
    high = surviving ** math.exp(-spread)
    return 1.0 - high, 1.0 - low
