"""A confidence sequence for how often something happens.

The method of mixtures (Robbins, 1970): the likelihood averaged over a Beta distribution, over the
likelihood of a share, is a martingale where that is the true one; by Ville's inequality it exceeds
1 / alpha, ever, with a probability of at most alpha.
"""

import math
from dataclasses import dataclass
from typing import Self

from scipy.special import betaln

from services.shadow.statistics.interval import Interval


def log_evidence(count: int, hits: float, share: float, a: float, b: float) -> float:
    """The logarithm of the evidence against a share after `hits` of `count`, under Beta(a, b)."""
    misses = count - hits
    likelihood = 0.0
    if hits:
        likelihood += hits * math.log(share) if share > 0 else -math.inf
    if misses:
        likelihood += misses * math.log1p(-share) if share < 1 else -math.inf
    return float(betaln(a + hits, b + misses) - betaln(a, b)) - likelihood


@dataclass(slots=True)
class Share:
    """How often something happened, of how many times.

    Attributes:
        count: Times.
        hits: How often it happened.
    """

    count: int = 0
    hits: int = 0

    def add(self, happened: bool) -> None:
        """Takes an observation in."""
        self.count += 1
        self.hits += happened

    @property
    def estimate(self) -> float:
        """The share so far; nan without observations."""
        return self.hits / self.count if self.count else math.nan

    def is_below(self, bound: float, alpha: float) -> bool:
        """Whether the true share is at most `bound`: in error with probability `alpha`, ever."""
        return self.hits < bound * self.count and self._against(bound) >= -math.log(alpha)

    def is_above(self, bound: float, alpha: float) -> bool:
        """Whether the true share is above `bound`: in error with probability `alpha`, ever."""
        return self.hits > bound * self.count and self._against(bound) >= -math.log(alpha)

    def interval(self, alpha: float) -> Interval:
        """Holds the true share at all times with probability 1 - alpha, and so either side does."""
        if not self.count:
            return Interval(0.0, 1.0)
        threshold, mean = -math.log(alpha), self.hits / self.count
        return Interval(self._edge(mean, 0.0, threshold), self._edge(mean, 1.0, threshold))

    def _edge(self, inside: float, outside: float, threshold: float) -> float:
        if self._against(outside) < threshold:
            return outside
        for _ in range(60):
            middle = (inside + outside) / 2
            if self._against(middle) < threshold:
                inside = middle
            else:
                outside = middle
        return outside

    def _against(self, share: float) -> float:
        # Half an observation of either kind: tight for what is rare (Jeffreys).
        return log_evidence(self.count, self.hits, share, 0.5, 0.5)

    def grown(self, count: int) -> "Share":
        """What it would be after `count` observations in all, were the others as these are."""
        return Share(count, round(self.hits * count / max(self.count, 1)))

    def state(self) -> list[int]:
        """All of it, for `restore`."""
        return [self.count, self.hits]

    @classmethod
    def restore(cls, state: list[int]) -> Self:
        """From `state`."""
        return cls(*state)
