"""Proposes a rendezvous from the curves of its versions. Pure.

All versions start at once; the answer of a lesser one counts from `accept_from` on. Which
versions are needed follows from the miss that is allowed; when a lesser one should count follows
from the better ones: as soon as waiting for them any longer would win less than that miss.
Attempts of different versions are taken to be independent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.referee import SPARE, SPARE_SHARE
from gateway.survival import Point, answered_by, reached


@dataclass(frozen=True, slots=True)
class Meeting:
    """One version of the proposal: from when it counts, and the share it would answer."""

    version: int
    accept_from: float
    share: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """A schedule, the share of calls that none of it answers, and whether that was allowed."""

    meetings: tuple[Meeting, ...]
    miss: float
    kept: bool


def propose(
    curves: Mapping[int, tuple[Point, ...]],
    preferred: Sequence[int],
    deadline: float,
    miss: float,
) -> Proposal:
    """The best schedule within a deadline.

    Args:
        curves: Of each version, by number.
        preferred: The versions, the preferred first.
        deadline: In seconds.
        miss: The share of calls that may go unanswered.
    """
    end = deadline - min(SPARE, SPARE_SHARE * deadline)
    chosen: list[int] = []
    left = 1.0
    for version in preferred:
        chosen.append(version)
        # The lower end of the interval: a promise is made on what is sure.
        left *= 1.0 - reached(curves[version], end).lower
        if left <= miss:
            break
    starts = [0.0]
    for rank in range(1, len(chosen)):
        better = [curves[version] for version in chosen[:rank]]
        starts.append(max(starts[-1], _settled(better, end, miss)))
    shares = _shares([curves[version] for version in chosen], starts, end)
    meetings = tuple(map(Meeting, chosen, starts, shares))
    return Proposal(meetings, max(0.0, 1.0 - sum(shares)), left <= miss)


def _settled(better: Sequence[tuple[Point, ...]], end: float, miss: float) -> float:
    """The first moment after which the better ones answer less than `miss` of the calls."""
    most = _any(better, end)
    moments = sorted({0.0} | {p.after for points in better for p in points if p.after < end})
    return next((at for at in moments if _any(better, at) >= most - miss), end)


def _any(curves: Sequence[tuple[Point, ...]], at: float) -> float:
    """The share of calls that at least one has answered."""
    none = 1.0
    for points in curves:
        none *= 1.0 - answered_by(points, at)
    return 1.0 - none


def _shares(
    curves: Sequence[tuple[Point, ...]], starts: Sequence[float], end: float
) -> list[float]:
    """The share of calls that each version answers under the referee's rules.

    A version wins at the first moment at which it has answered and counts, unless a preferred
    one that counts has answered by then. Moments are those of the curves and of the schedule.
    """
    moments = sorted({p.after for c in curves for p in c if p.after <= end} | {*starts, end})
    won = [0.0] * len(curves)
    before = [0.0] * len(curves)  # The share that has answered and counted before this moment.
    for at in moments:
        now = [
            answered_by(points, at) if at >= start else 0.0
            for points, start in zip(curves, starts, strict=True)
        ]
        free = 1.0  # Nobody has won before, nor anybody preferred at this moment.
        for share in before:
            free *= 1.0 - share
        if free <= 0.0:
            break
        taken = 1.0
        for rank in range(len(curves)):
            newly = (now[rank] - before[rank]) / (1.0 - before[rank]) if before[rank] < 1 else 0.0
            won[rank] += free * taken * newly
            taken *= 1.0 - newly
        before = now
    return won
