"""Which share of a split a call goes to."""

import math
from collections.abc import Sequence
from hashlib import blake2b

from modelyard.catalog import Share, Target


class Turns:
    """Takes turns by weight, so that after any number of calls every share is exact.

    Tijdeman's algorithm (*The chairman assignment problem*, 1980): of the shares that are due,
    the one that must be served soonest comes next. After any number of calls each share has had
    what its weight says, off by less than one call; so in any window by less than two.
    All in whole numbers: nothing drifts.

    Args:
        shares: The shares; not all weights are 0.
    """

    def __init__(self, shares: Sequence[Share]) -> None:
        self._shares = tuple(share for share in shares if share.weight)
        self._total = sum(share.weight for share in self._shares)
        # weight * calls - total * served, for each share.
        self._credits = [0] * len(self._shares)

    def next(self) -> Target:
        """The target of the next call."""
        index = self._due()
        for at, share in enumerate(self._shares):
            self._credits[at] += share.weight
        self._credits[index] -= self._total
        return self._shares[index].target

    def peek(self) -> Target:
        """The target of the next call, which this is not."""
        return self._shares[self._due()].target

    def _due(self) -> int:
        count = len(self._shares)
        if count == 1:
            return 0
        best, soonest = 0, math.inf
        for index, share in enumerate(self._shares):
            credit = self._credits[index] + share.weight
            # Due: served now, it has not more than 1 - 1/(2n - 2) of a call too much.
            if credit * (2 * count - 2) < self._total:
                continue
            # How many calls it can still wait until it lacks 1 - 1/(2n - 2) of a call.
            most = self._total * (2 * count - 3) / (2 * count - 2)
            wait = (most - self._credits[index]) / share.weight
            if wait < soonest:
                best, soonest = index, wait
        return best


def sticky(shares: Sequence[Share], model: str, value: str) -> Target:
    """The share that a value holds to: the same for the same value, in every gateway.

    Weighted rendezvous hashing (Schindelhauer and Schomaker, *Weighted distributed hash tables*,
    2005; score -w / ln h): when weights move, no value moves between shares whose weights stand
    in the same proportion as before.
    """
    best, highest = shares[0].target, -1.0
    for share in shares:
        if share.weight:
            digest = blake2b(f"{model}\0{share.target}\0{value}".encode(), digest_size=8).digest()
            # In (0, 1): never 0, never 1.
            uniform = (int.from_bytes(digest, "big") + 0.5) / 2.0**64
            score = share.weight / -math.log(min(uniform, 1 - 1e-16))
            if score > highest:
                best, highest = share.target, score
    return best
