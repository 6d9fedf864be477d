"""Confidence bands for quantiles of latencies.

Where q is the p-quantile, each observation is at most q with probability p: so the number of
observations up to a value tells, by the same martingale as for a share, whether that value can be
the quantile (the idea of Howard and Ramdas, "Sequential estimation of quantiles with applications
to A/B testing and best-arm identification", Bernoulli 28(3), 2022, with a Beta mixture around p).
Observations are kept in bins that grow by 1 %, and the band reaches to the far edges of its bins.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Self

from services.shadow.statistics.interval import Interval
from services.shadow.statistics.share import log_evidence

_GROWTH = math.log(1.01)
_SHORTEST = 1e-6
# 1 us to 1000 s and a little more.
_LAST = math.ceil(math.log(1e9) / _GROWTH)
# How sharply the mixture is centred on the quantile: as if so many were seen before.
_PRIOR = 50.0


def edge(index: int) -> float:
    """The longest latency of a bin, in seconds."""
    return _SHORTEST * math.exp(index * _GROWTH)


@dataclass(slots=True)
class Latencies:
    """Latencies in bins of 1 %.

    Attributes:
        bins: How many are in each bin; empty bins are left out.
        count: Observations.
    """

    bins: dict[int, int] = field(default_factory=dict)
    count: int = 0

    def add(self, seconds: float) -> None:
        """Takes an observation in."""
        index = 0
        if seconds > _SHORTEST:
            index = min(math.ceil(math.log(seconds / _SHORTEST) / _GROWTH), _LAST)
        self.bins[index] = self.bins.get(index, 0) + 1
        self.count += 1

    def quantile(self, p: float) -> float:
        """The quantile of what was observed, in seconds; nan without observations."""
        if not self.count:
            return math.nan
        indices, upto = self._sorted()
        return edge(indices[bisect_left(upto, math.ceil(p * self.count))])

    def band(self, p: float, alpha: float) -> Interval:
        """Holds the true p-quantile at all times with probability 1 - alpha; in seconds."""
        if not self.count:
            return Interval(0.0, math.inf)
        least, most = _counts(self.count, p, -math.log(alpha))
        indices, upto = self._sorted()
        # The quantile is not below a bin up to which there are too few, nor above one up to
        # which there are too many.
        low = bisect_left(upto, least)
        high = bisect_right(upto, most)
        lower = edge(indices[low] - 1) if low < len(indices) else edge(indices[-1])
        upper = edge(indices[high]) if high < len(indices) else math.inf
        if least == 0:
            lower = 0.0
        return Interval(lower, upper)

    def _sorted(self) -> tuple[Sequence[int], Sequence[int]]:
        indices = sorted(self.bins)
        return indices, list(accumulate(self.bins[index] for index in indices))

    def grown(self, count: int) -> "Latencies":
        """What it would be after `count` observations in all, were the others as these are."""
        factor = count / max(self.count, 1)
        bins = {index: max(1, round(held * factor)) for index, held in self.bins.items()}
        return Latencies(bins, sum(bins.values()))

    def state(self) -> list[list[int]]:
        """All of it, for `restore`."""
        return [[index, held] for index, held in sorted(self.bins.items())]

    @classmethod
    def restore(cls, state: list[list[int]]) -> Self:
        """From `state`."""
        bins = {index: held for index, held in state}
        return cls(bins, sum(bins.values()))


def _counts(count: int, p: float, threshold: float) -> tuple[int, int]:
    """The least and the greatest number of observations that the quantile may have below it."""

    def possible(hits: int) -> bool:
        return log_evidence(count, hits, p, _PRIOR * p, _PRIOR * (1 - p)) < threshold

    middle = round(count * p)
    return _last_possible(possible, middle, 0), _last_possible(possible, middle, count)


def _last_possible(possible: Callable[[int], bool], inside: int, outside: int) -> int:
    if possible(outside):
        return outside
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        if possible(middle):
            inside = middle
        else:
            outside = middle
    return inside


def ratio(candidate: Latencies, baseline: Latencies, p: float, alpha: float) -> Interval:
    """How many times the baseline's quantile the candidate's is: both ends, alpha on either side.

    Each end is wrong, ever, with a probability of at most alpha: a union bound over the two
    bands, which holds whatever they have to do with each other.
    """
    one, other = candidate.band(p, alpha / 2), baseline.band(p, alpha / 2)
    upper = one.upper / other.lower if other.lower > 0 else math.inf
    lower = one.lower / other.upper if math.isfinite(other.upper) else 0.0
    return Interval(lower, upper)
