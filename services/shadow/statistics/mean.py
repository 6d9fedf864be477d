"""A confidence sequence for the mean of a bounded variable.

The empirical-Bernstein sequence of Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform,
nonparametric, nonasymptotic confidence sequences" (Annals of Statistics 49(2), 2021), Theorem 4:
for observations within a range of width c, the sum of their deviations from the true mean is
sub-exponential with scale c in the variance process of their squared distances from a predictable
guess. The boundary is the paper's gamma-exponential mixture (Proposition 9). It adapts to the
variance, takes a few additions an observation, and its state is four numbers.
"""

import math
from dataclasses import dataclass
from typing import Self

from scipy.special import gammainc, gammaln

from services.shadow.statistics.interval import Interval

# The sum of squares at which the boundary is tightest: that of a few hundred observations of a
# rare difference, which is where gates are decided.
_TUNED_FOR = 5.0


def log_capital(deviation: float, variance: float, scale: float) -> float:
    """The logarithm of the mixture supermartingale: the evidence against a mean, one-sided.

    Args:
        deviation: The sum of the observations less as many times the mean.
        variance: The sum of squared distances from the predictable guesses.
        scale: The width of the observations' range.
    """
    rho = _TUNED_FOR / scale**2
    shape = variance / scale**2 + rho
    rate = deviation / scale + shape
    if rate <= 0.0:
        return -math.inf  # So far on the other side that there is no evidence at all.
    normal = rho * math.log(rho) - gammaln(rho) - math.log(gammainc(rho, rho))
    inside = float(gammainc(shape, rate))
    if inside <= 0.0:
        return -math.inf
    return float(
        normal
        + gammaln(shape)
        + math.log(inside)
        - shape * math.log(rate)
        + deviation / scale
        + variance / scale**2
    )


@dataclass(slots=True)
class Mean:
    """The mean of observations between `low` and `high`, one after the other.

    The level holds where the conditional mean of each observation, given those before it, is the
    same; for a mean that moves, the interval is for the average of the conditional means so far.

    Attributes:
        low: No observation is below it.
        high: None is above it.
        count: Observations.
        total: Their sum.
        variance: The sum of their squared distances from what was guessed before each.
    """

    low: float = 0.0
    high: float = 1.0
    count: int = 0
    total: float = 0.0
    variance: float = 0.0

    def add(self, value: float) -> None:
        """Takes an observation in; one beyond the range, by rounding, is put back on its end."""
        value = min(max(value, self.low), self.high)
        middle = (self.low + self.high) / 2
        # Predictable: known before the observation. One made-up observation to begin with.
        guess = (middle + self.total) / (self.count + 1)
        self.variance += (value - guess) ** 2
        self.total += value
        self.count += 1

    @property
    def estimate(self) -> float:
        """The mean of the observations; nan without any."""
        return self.total / self.count if self.count else math.nan

    def is_below(self, bound: float, alpha: float) -> bool:
        """Whether the true mean is at most `bound`: in error with probability `alpha`, ever."""
        deviation = self.count * bound - self.total
        return deviation > 0 and self._evidence(deviation) >= -math.log(alpha)

    def is_above(self, bound: float, alpha: float) -> bool:
        """Whether the true mean is above `bound`: in error with probability `alpha`, ever."""
        deviation = self.total - self.count * bound
        return deviation > 0 and self._evidence(deviation) >= -math.log(alpha)

    def interval(self, alpha: float) -> Interval:
        """Holds the true mean at all times with probability 1 - 2 alpha: alpha on either side."""
        if not self.count:
            return Interval(self.low, self.high)
        reach = self.reach(alpha) / self.count
        mean = self.estimate
        return Interval(max(self.low, mean - reach), min(self.high, mean + reach))

    def reach(self, alpha: float) -> float:
        """How far the sum may be from its mean: where the evidence is 1 / alpha."""
        least, most = 0.0, self.count * (self.high - self.low)
        threshold = -math.log(alpha)
        if self._evidence(most) < threshold:
            return most
        for _ in range(60):
            middle = (least + most) / 2
            if self._evidence(middle) < threshold:
                least = middle
            else:
                most = middle
            if most - least <= 1e-9 * most:
                break
        return most

    def _evidence(self, deviation: float) -> float:
        return log_capital(deviation, self.variance, self.high - self.low)

    def grown(self, count: int) -> "Mean":
        """What it would be after `count` observations in all, were the others as these are."""
        factor = count / max(self.count, 1)
        return Mean(self.low, self.high, count, self.total * factor, self.variance * factor)

    def state(self) -> list[float]:
        """All of it, for `restore`."""
        return [self.low, self.high, self.count, self.total, self.variance]

    @classmethod
    def restore(cls, state: list[float]) -> Self:
        """From `state`."""
        low, high, count, total, variance = state
        return cls(low, high, int(count), total, variance)
