"""The extra-load budget: callers' own calls fill it, retries and hedges spend it.

After Finagle's RetryBudget (Twitter): what the last 10 s of traffic brought may be spent, so that
a storm of failures meets an empty purse. A few retries a second are free, for a service that is
called rarely has failures too; hedges are never free.
"""

# Seconds over which traffic counts, in slots of one second.
TTL = 10
# Retries and hedges together, per call, and the retries a second that cost nothing.
EXTRA_SHARE, FREE_PER_SECOND = 0.2, 10.0


class Budget:
    """One purse for the retries and hedges of one model. Times are seconds on one clock.

    Args:
        share: Of the retries that cost nothing, where several processes have a purse each.
    """

    __slots__ = ("_calls", "_free", "_hedges", "_retries", "_slot", "_sums")

    def __init__(self, share: float = 1.0) -> None:
        self._free = FREE_PER_SECOND * TTL * share
        self._calls = [0] * TTL
        self._retries = [0] * TTL
        self._hedges = [0] * TTL
        self._sums = [0, 0, 0]
        self._slot = 0

    def deposit(self, now: float) -> None:
        """Counts a call of a caller's own."""
        at = self._at(now)
        self._calls[at] += 1
        self._sums[0] += 1

    def take_retry(self, now: float) -> bool:
        """Pays for a retry, if there is enough."""
        at = self._at(now)
        calls, retries, hedges = self._sums
        if retries + hedges + 1 > EXTRA_SHARE * calls + self._free:
            return False
        self._retries[at] += 1
        self._sums[1] += 1
        return True

    def take_hedge(self, now: float, share: float) -> bool:
        """Pays for a hedge, if hedges stay within `share` per call and all within the whole."""
        at = self._at(now)
        calls, retries, hedges = self._sums
        if hedges + 1 > share * calls or retries + hedges + 1 > max(share, EXTRA_SHARE) * calls:
            return False
        self._hedges[at] += 1
        self._sums[2] += 1
        return True

    def _at(self, now: float) -> int:
        """The slot of a moment; empties those that are over."""
        slot = int(now)
        passed = slot - self._slot
        if passed > 0:
            for step in range(1, min(passed, TTL) + 1):
                index = (self._slot + step) % TTL
                for which, counts in enumerate((self._calls, self._retries, self._hedges)):
                    self._sums[which] -= counts[index]
                    counts[index] = 0
            self._slot = slot
        return slot % TTL
