"""How long to wait before the next try."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that grow, with full jitter above half.

    Half is certain and half is chance, so that many who failed together come back apart
    (AWS Architecture Blog, *Exponential Backoff And Jitter*: "equal jitter").

    Attributes:
        first: The first wait, in seconds.
        factor: How much longer each next one is.
        limit: The longest, in seconds.
    """

    first: float = 0.1
    factor: float = 2.0
    limit: float = 5.0

    def wait(self, failures: int, chance: random.Random) -> float:
        """The wait after so many failures in a row (1 or more), in seconds."""
        whole: float = min(self.first * self.factor ** min(failures - 1, 64), self.limit)
        return whole / 2 + chance.uniform(0.0, whole / 2)
