"""An interval that holds the true value, at all times at once."""

from typing import NamedTuple


class Interval(NamedTuple):
    """From `lower` to `upper`, both included."""

    lower: float
    upper: float

    def minus(self, other: "Interval") -> "Interval":
        """What the difference of two values can be, each within its interval."""
        return Interval(self.lower - other.upper, self.upper - other.lower)
