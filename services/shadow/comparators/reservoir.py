"""A sample of what came, of a fixed size: each value is in it with the same probability.

Vitter's Algorithm R ("Random sampling with a reservoir", ACM TOMS 11(1), 1985).
"""

import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from typing import Any, Self

SIZE = 1000


class Reservoir:
    """A sample of at most `size` values, kept sorted.

    Args:
        size: Values that are kept.
        seed: Of its choices, so that the same values give the same sample.
    """

    def __init__(self, size: int = SIZE, seed: int = 0) -> None:
        self._size = size
        self._rng = random.Random(seed)
        self._values: list[float] = []
        self.count = 0

    def add(self, values: Iterable[float]) -> None:
        """Takes values in; those that are not finite are left out."""
        for value in values:
            if value != value or value in (float("inf"), float("-inf")):
                continue
            self.count += 1
            if len(self._values) >= self._size:
                place = self._rng.randrange(self.count)
                if place >= self._size:
                    continue
                del self._values[place]
            insort(self._values, value)

    def rank(self, value: float) -> float:
        """The share of the sample below a value, those equal to it by half; 0.5 of nothing."""
        if not self._values:
            return 0.5
        below, upto = bisect_left(self._values, value), bisect_right(self._values, value)
        return (below + upto) / (2 * len(self._values))

    def quantile(self, q: float) -> float:
        """A quantile of the sample; nan of nothing."""
        if not self._values:
            return float("nan")
        return self._values[min(int(q * len(self._values)), len(self._values) - 1)]

    @property
    def values(self) -> Sequence[float]:
        """The sample, ascending."""
        return self._values

    def state(self) -> list[Any]:
        """All of it, for `restore`."""
        version, internal, gauss = self._rng.getstate()
        return [self._size, self.count, self._values, [version, list(internal), gauss]]

    @classmethod
    def restore(cls, state: Sequence[Any]) -> Self:
        """From `state`."""
        size, count, values, (version, internal, gauss) = state
        made = cls(size)
        made.count, made._values = count, list(values)
        made._rng.setstate((version, tuple(internal), gauss))
        return made
