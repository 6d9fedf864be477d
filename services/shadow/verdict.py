"""Gates, and what follows from them. Pure.

A gate is a test of non-inferiority: the candidate may be worse by a margin, and no more. It passes
when the whole interval lies within the margin, fails when the whole of it lies beyond, and is open
otherwise. Alpha is split evenly over the gates, so the probability that a candidate is promoted
though one of its gates does not hold in truth is at most alpha, however often one looks: for each
gate, its part of alpha. The same holds for rejections.

Slices only reject. The k-th slice that shows up has 6 / (pi^2 k^2) of their alpha, which sums to
all of it however many come, so that one that comes late changes nothing for those before it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, Self

from services.shadow.statistics import Interval, Latencies, Mean, Share, ratio

# A forecast beyond so many observations is none.
_FARTHEST = 1 << 33


class Verdict(Enum):
    """What is said of a candidate."""

    NO_DATA = "no data"
    INCONCLUSIVE = "inconclusive"
    PROMOTE = "promote"
    REJECT = "reject"


class Decision(Enum):
    """Where a gate stands."""

    NO_DATA = "no data"
    OPEN = "open"
    PASS = "pass"  # noqa: S105 - of a gate, not of a person
    FAIL = "fail"


class Kind(Enum):
    """What a gate measures."""

    DIFFERENCE = "difference"
    ERRORS = "errors"
    LATENCY = "latency"
    LOSS = "loss"


@dataclass(frozen=True, slots=True)
class Gate:
    """What must hold.

    Attributes:
        kind: What is measured.
        margin: How much of it is borne: a difference, or for latency a ratio.
        output: Of which output; "" for all together.
        quantile: Of the latency.
    """

    kind: Kind
    margin: float
    output: str = ""
    quantile: float = 0.95

    def __str__(self) -> str:
        of = f" of {self.output!r}" if self.output else ""
        match self.kind:
            case Kind.LATENCY:
                return f"p{self.quantile * 100:g} of the latency within {self.margin:g} times"
            case _:
                return f"{self.kind.value}{of} within {self.margin:g}"


class Evidence(Protocol):
    """What was observed for a gate."""

    @property
    def count(self) -> int:
        """Observations."""
        ...

    @property
    def estimate(self) -> float:
        """What the gate measures, as observed."""
        ...

    def interval(self, alpha: float) -> Interval:
        """Holds it, each end in error with a probability of at most alpha, ever."""
        ...

    def grown(self, count: int) -> Self:
        """After so many observations in all, were the others as these are."""
        ...


@dataclass(frozen=True, slots=True)
class Excess:
    """A mean difference beyond the noise floor.

    Both are sequences of their own, on requests of which one is part of the other's, so half of
    alpha goes to either and nothing is assumed of how they depend on each other.

    Attributes:
        difference: Of the candidate's answers to the baseline's.
        noise: Of the baseline's answers to its own; empty where it was never asked twice.
    """

    difference: Mean
    noise: Mean

    @property
    def count(self) -> int:
        """Observations of the candidate."""
        return self.difference.count

    @property
    def estimate(self) -> float:
        """The mean difference less the noise."""
        floor = self.noise.estimate if self.noise.count else 0.0
        return self.difference.estimate - floor

    def interval(self, alpha: float) -> Interval:
        """See `Evidence.interval`."""
        if not self.noise.count:
            # Without a floor a difference is a difference.
            return self.difference.interval(alpha)
        return self.difference.interval(alpha / 2).minus(self.noise.interval(alpha / 2))

    def grown(self, count: int) -> "Excess":
        """See `Evidence.grown`."""
        share = self.noise.count / max(self.difference.count, 1)
        return Excess(self.difference.grown(count), self.noise.grown(round(count * share)))


@dataclass(frozen=True, slots=True)
class Slowness:
    """A ratio of latencies at a quantile."""

    candidate: Latencies
    baseline: Latencies
    quantile: float

    @property
    def count(self) -> int:
        """Requests that both were given."""
        return min(self.candidate.count, self.baseline.count)

    @property
    def estimate(self) -> float:
        """How many times the baseline's the candidate's is."""
        baseline = self.baseline.quantile(self.quantile)
        return self.candidate.quantile(self.quantile) / baseline if baseline else math.nan

    def interval(self, alpha: float) -> Interval:
        """See `Evidence.interval`."""
        return ratio(self.candidate, self.baseline, self.quantile, alpha)

    def grown(self, count: int) -> "Slowness":
        """See `Evidence.grown`."""
        return Slowness(self.candidate.grown(count), self.baseline.grown(count), self.quantile)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a gate stands.

    Attributes:
        gate: The gate.
        decision: Whether it holds.
        interval: Of what it measures.
        estimate: As observed.
        count: Observations.
        alpha: The gate's part of it.
    """

    gate: Gate
    decision: Decision
    interval: Interval
    estimate: float
    count: int
    alpha: float


def part(alpha: float, gates: int) -> float:
    """One gate's part of alpha."""
    return alpha / max(gates, 1)


def slice_part(alpha: float, order: int) -> float:
    """The part of alpha of the slice that came as the `order`-th, from 1 on."""
    return alpha * 6.0 / (math.pi**2 * order**2)


def stand(gate: Gate, evidence: Evidence, alpha: float) -> Standing:
    """Where a gate stands, with its part of alpha."""
    if not evidence.count:
        nothing = Interval(-math.inf, math.inf)
        return Standing(gate, Decision.NO_DATA, nothing, math.nan, 0, alpha)
    interval = evidence.interval(alpha)
    decision = Decision.OPEN
    if interval.upper <= gate.margin:
        decision = Decision.PASS
    elif interval.lower > gate.margin:
        decision = Decision.FAIL
    return Standing(gate, decision, interval, evidence.estimate, evidence.count, alpha)


def conclude(
    gates: Sequence[Decision], small: Sequence[Decision] = (), large: Sequence[Decision] = ()
) -> Verdict:
    """What is said of a candidate.

    Args:
        gates: Where they stand on the whole traffic.
        small: On parts of it that can only reject: a promotion would wait too long for them.
        large: On parts that a promotion waits for.
    """
    if any(Decision.FAIL in decisions for decisions in (gates, small, large)):
        return Verdict.REJECT
    if not gates or all(decision is Decision.NO_DATA for decision in gates):
        return Verdict.NO_DATA
    if all(decision is Decision.PASS for decision in (*gates, *large)):
        return Verdict.PROMOTE
    return Verdict.INCONCLUSIVE


def needed(gate: Gate, evidence: Evidence, alpha: float) -> int | None:
    """How many more observations decide a gate, were they all as those so far.

    Returns:
        None where there are none yet, or where it would take for ever: the estimate lies on the
        margin.
    """
    if not evidence.count:
        return None

    def decides(count: int) -> bool:
        standing = stand(gate, evidence.grown(count), alpha)
        return standing.decision in (Decision.PASS, Decision.FAIL)

    if decides(evidence.count):
        return 0
    most = 2 * evidence.count
    while not decides(most):
        most *= 2
        if most > _FARTHEST:
            return None
    least = most // 2
    while most - least > max(1, least // 100):
        middle = (least + most) // 2
        if decides(middle):
            most = middle
        else:
            least = middle
    return most - evidence.count


__all__ = [
    "Decision",
    "Evidence",
    "Excess",
    "Gate",
    "Kind",
    "Share",
    "Slowness",
    "Standing",
    "Verdict",
    "conclude",
    "needed",
    "part",
    "slice_part",
    "stand",
]
