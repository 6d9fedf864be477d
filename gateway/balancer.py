"""Which replica gets the next attempt: power of two choices over peak-EWMA.

Peak-EWMA (Finagle's `loadbalancer/PeakEwma.scala`): the cost of a replica is its moving
average latency times the calls that it would then have; the average jumps up to a peak at
once and comes down slowly, also while no call goes there. A replica on which calls are given up
that took longer than it is used to tells no latency: each in a row doubles its cost, and each
second halves that again, so that it is tried now and then. Two replicas are drawn at random and
the cheaper one is taken (Mitzenmacher, *The Power of Two Choices in Randomized Load Balancing*,
2001).
"""

import math
import random
from collections.abc import Sequence
from typing import TypeVar

# Seconds in which a peak decays to 1/e. Finagle's default.
DECAY = 10.0
# Calls given up in a row that count, and seconds after which one less does.
MOST_DOUBTS, DOUBT_FADES = 16, 1.0
# What a replica that was never measured is taken to cost, per pending call, in seconds.
UNKNOWN = 1e-3


class PeakEwma:
    """The load of one replica."""

    __slots__ = ("_average", "_decay", "_doubted", "_doubts", "_stamp", "pending")

    def __init__(self, now: float, decay: float = DECAY) -> None:
        self._decay = decay
        self._stamp = now
        self._average = 0.0
        self._doubts = 0
        self._doubted = now
        self.pending = 0

    @property
    def average(self) -> float:
        """The peak-sensitive moving average of latency, in seconds; 0 before the first call."""
        return self._average

    def observe(self, latency: float, now: float) -> None:
        """Records one finished call; both in seconds."""
        self._doubts = 0
        elapsed = max(now - self._stamp, 0.0)
        self._stamp = now
        if latency > self._average:
            self._average = latency
        else:
            weight = math.exp(-elapsed / self._decay)
            self._average = self._average * weight + latency * (1.0 - weight)

    def observe_at_least(self, latency: float, now: float) -> None:
        """Records a call that was given up after so long: nobody knows how long it would take."""
        if latency > self._average:
            self._doubts = min(self._doubts + 1, MOST_DOUBTS)
            self._doubted = now

    def cost(self, now: float) -> float:
        """What one more call here would cost, in seconds."""
        idle = math.exp((self._stamp - now) / self._decay)
        cost = (self._average * idle or UNKNOWN) * (self.pending + 1)
        if self._doubts:
            cost *= 2.0 ** max(0.0, self._doubts - (now - self._doubted) / DOUBT_FADES)
        return cost


class Loaded:
    """Anything with a load; a base for replicas."""

    __slots__ = ("load",)

    def __init__(self, load: PeakEwma) -> None:
        self.load = load


R = TypeVar("R", bound=Loaded)


def pick(candidates: Sequence[R], chance: random.Random, now: float) -> R:
    """The cheaper of two candidates drawn at random; `candidates` is not empty."""
    count = len(candidates)
    if count == 1:
        return candidates[0]
    first = int(chance.random() * count)
    second = int(chance.random() * (count - 1))
    if second >= first:
        second += 1
    one, other = candidates[first], candidates[second]
    return one if one.load.cost(now) <= other.load.cost(now) else other
