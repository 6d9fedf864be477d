"""Proposals, against brute force and against races that the referee decides."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.plan import Attempt, Kind, Plan
from gateway.referee import (
    SPARE,
    SPARE_SHARE,
    Accept,
    Fail,
    Phase,
    Race,
    Start,
    Wait,
    next_action,
)
from gateway.schedule import Proposal, propose
from gateway.survival import Point, answered_by
from modelyard.names import VersionName

Curve = tuple[Point, ...]


def curve_of(*steps: tuple[float, float], lower: float = 1.0) -> Curve:
    """A curve through (seconds, share); its interval begins at such a part of the share."""
    return tuple(Point(after, share, share * lower, share) for after, share in steps)


# Moments on a grid, so that versions meet at the same ones.
@st.composite
def curves(draw: st.DrawFn) -> Curve:
    moments = sorted(draw(st.sets(st.integers(1, 25), max_size=5)))
    shares = sorted(draw(st.floats(0.0, 1.0)) for _ in moments)
    lower = draw(st.sampled_from([1.0, 0.95, 0.5]))
    return curve_of(*((m / 100, s) for m, s in zip(moments, shares, strict=True)), lower=lower)


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[int, Curve], list[int], float, float]:
    count = draw(st.integers(1, 3))
    found = {number: draw(curves()) for number in range(1, count + 1)}
    order = draw(st.permutations(list(found)))
    return (
        found,
        list(order),
        draw(st.sampled_from([0.05, 0.1, 0.2, 0.3])),
        draw(st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.5])),
    )


def end_of(deadline: float) -> float:
    return deadline - min(SPARE, SPARE_SHARE * deadline)


def latencies(curve: Curve) -> list[tuple[float, float]]:
    """Each latency that a curve knows, with its probability; infinity for no answer."""
    found, before = [], 0.0
    for point in curve:
        found.append((point.after, point.answered - before))
        before = point.answered
    return [*found, (math.inf, 1.0 - before)]


def winner(drawn: Sequence[float], starts: Sequence[float], end: float) -> int | None:
    """Who wins: the first to have answered and to count; at the same moment the preferred."""
    counted = [
        (max(latency, start), rank)
        for rank, (latency, start) in enumerate(zip(drawn, starts, strict=True))
        if latency <= end
    ]
    return min(counted)[1] if counted else None


def brute_force(
    found: Mapping[int, Curve], proposal: Proposal, deadline: float
) -> tuple[list[float], float]:
    """The share of calls that each wins and that none does, over every combination."""
    chosen = [found[meeting.version] for meeting in proposal.meetings]
    starts = [meeting.accept_from for meeting in proposal.meetings]
    won, missed = [0.0] * len(chosen), 0.0
    for drawn in itertools.product(*map(latencies, chosen)):
        chance = math.prod(probability for _, probability in drawn)
        first = winner([latency for latency, _ in drawn], starts, end_of(deadline))
        if first is None:
            missed += chance
        else:
            won[first] += chance
    return won, missed


@settings(max_examples=300, deadline=None)
@given(cases())
def test_shares_are_those_of_every_combination(case) -> None:
    found, preferred, deadline, miss = case
    proposal = propose(found, preferred, deadline, miss)
    won, missed = brute_force(found, proposal, deadline)
    for meeting, share in zip(proposal.meetings, won, strict=True):
        assert meeting.share == pytest.approx(share, abs=1e-9)
    assert proposal.miss == pytest.approx(missed, abs=1e-9)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_what_a_proposal_promises(case) -> None:
    found, preferred, deadline, miss = case
    proposal = propose(found, preferred, deadline, miss)
    end, count = end_of(deadline), len(proposal.meetings)

    def left(versions: Sequence[int]) -> float:
        """The share that none of these is sure to answer."""
        lower = [max((p.lower for p in found[v] if p.after <= end), default=0.0) for v in versions]
        return math.prod(1.0 - share for share in lower)

    # The fewest of the preferred ones that keep the promise; all, where none do.
    assert [m.version for m in proposal.meetings] == preferred[:count]
    assert proposal.kept == (left(preferred[:count]) <= miss)
    assert proposal.kept or count == len(preferred)
    assert all(left(preferred[:fewer]) > miss for fewer in range(1, count))
    if proposal.kept:
        assert proposal.miss <= miss + 1e-9

    # Who is preferred counts no later, and nobody after the end.
    starts = [m.accept_from for m in proposal.meetings]
    assert starts == sorted(starts)
    assert starts[0] == 0.0
    assert starts[-1] <= end
    # Where a lesser one counts, waiting longer for the better ones would win less than the miss.
    for rank, start in enumerate(starts[1:], start=1):
        better = [found[v] for v in preferred[:rank]]
        assert any_of(better, end) - any_of(better, start) <= miss + 1e-9


def any_of(better: Sequence[Curve], at: float) -> float:
    return 1.0 - math.prod(1.0 - answered_by(curve, at) for curve in better)


BIG = curve_of((0.05, 0.3), (0.1, 0.7), (0.15, 0.9))
MIDDLE = curve_of((0.03, 0.5), (0.06, 0.9), (0.1, 0.97))
SMALL = curve_of((0.005, 0.99), (0.01, 0.9999))


def referee_says(drawn: Sequence[float], starts: Sequence[float], deadline: float) -> int | None:
    """Runs one rendezvous by the referee's own rules; gives the leg that won."""
    attempts = tuple(
        Attempt(Kind.RENDEZVOUS, VersionName("m", leg + 1), leg, start_at=0.0, accept_from=start)
        for leg, start in enumerate(starts)
    )
    race, now = Race(Plan(attempts), 0.0, deadline), 0.0
    while True:
        for leg, latency in enumerate(drawn):
            if race.phases[leg] is Phase.PENDING and latency <= now:
                race.phases[leg] = Phase.SUCCEEDED
        match next_action(race, now):
            case Start(leg):
                race.phases[leg] = Phase.PENDING
            case Accept(leg):
                return leg
            case Fail():
                return None
            case Wait(until):
                ends = [
                    latency
                    for leg, latency in enumerate(drawn)
                    if race.phases[leg] is Phase.PENDING
                ]
                now = min([until, *ends])


@pytest.mark.parametrize(
    ("found", "preferred", "deadline", "miss"),
    [
        ({1: SMALL, 2: BIG}, [2, 1], 0.2, 0.001),
        ({1: SMALL, 2: BIG}, [2, 1], 0.12, 0.05),
        ({1: SMALL, 2: MIDDLE, 3: BIG}, [3, 2, 1], 0.2, 0.0001),
        ({1: SMALL, 2: MIDDLE, 3: BIG}, [2, 3, 1], 0.09, 0.01),
    ],
)
def test_shares_are_those_of_races(found, preferred, deadline, miss) -> None:
    proposal = propose(found, preferred, deadline, miss)
    assert len(proposal.meetings) > 1
    chance, races = random.Random(11), 20_000
    starts = [meeting.accept_from for meeting in proposal.meetings]
    won: Counter[int | None] = Counter()
    for _ in range(races):
        drawn = []
        for meeting in proposal.meetings:
            values, weights = zip(*latencies(found[meeting.version]), strict=True)
            drawn.append(chance.choices(values, weights)[0])
        won[referee_says(drawn, starts, deadline)] += 1
    for leg, meeting in enumerate(proposal.meetings):
        # Five standard deviations; the seed is fixed.
        spread = 5 * math.sqrt(meeting.share * (1 - meeting.share) / races) + 1e-3
        assert won[leg] / races == pytest.approx(meeting.share, abs=spread)
    # At the end itself an answer counts; what comes after it and before the deadline does too.
    assert won[None] / races <= proposal.miss + 5 * math.sqrt(proposal.miss / races) + 1e-3


def test_one_version_is_enough_where_it_keeps_the_promise() -> None:
    proposal = propose({1: SMALL, 2: BIG}, [1, 2], 0.2, 0.001)
    assert [m.version for m in proposal.meetings] == [1]
    assert proposal.kept


def test_a_lesser_one_counts_once_the_better_is_past_hope() -> None:
    proposal = propose({1: SMALL, 2: BIG}, [2, 1], 0.2, 0.01)
    # At 150 ms the big one has answered all that it will within the deadline.
    assert [(m.version, m.accept_from) for m in proposal.meetings] == [(2, 0.0), (1, 0.15)]
    assert proposal.meetings[0].share == pytest.approx(0.9)
    assert proposal.meetings[1].share == pytest.approx(0.1 * 0.9999)
    # What comes at 100 ms is less than may be missed: nobody waits for it.
    trickle = curve_of((0.05, 0.5), (0.1, 0.52))
    sooner = propose({1: SMALL, 2: trickle}, [2, 1], 0.2, 0.05)
    assert [m.accept_from for m in sooner.meetings] == [0.0, 0.05]


def test_a_promise_is_made_on_what_is_sure() -> None:
    unsure = curve_of((0.01, 1.0), lower=0.9)
    proposal = propose({1: unsure}, [1], 0.2, 0.05)
    assert not proposal.kept
    assert proposal.miss == pytest.approx(0.0)


def test_not_kept_when_it_cannot_be() -> None:
    slow = curve_of((1.0, 1.0))
    proposal = propose({1: slow, 2: slow}, [1, 2], 0.2, 0.01)
    assert not proposal.kept
    assert proposal.miss == 1.0
    assert [m.share for m in proposal.meetings] == [0.0, 0.0]


def test_versions_that_nobody_measured_promise_nothing() -> None:
    proposal = propose({1: (), 2: SMALL}, [1, 2], 0.2, 0.001)
    assert proposal.kept
    assert [m.share for m in proposal.meetings] == [0.0, pytest.approx(0.9999)]
    assert not propose({1: ()}, [1], 0.2, 0.5).kept


def test_the_end_is_just_inside_the_deadline() -> None:
    at_end = curve_of((end_of(0.2), 1.0))
    assert propose({1: at_end}, [1], 0.2, 0.0).kept
    late = curve_of((end_of(0.2) + 1e-6, 1.0))
    assert not propose({1: late}, [1], 0.2, 0.0).kept


@pytest.mark.parametrize("hopeless", [(), curve_of((1.0, 1.0)), curve_of((0.15, 0.0005))])
def test_nobody_waits_for_a_version_that_wins_less_than_the_miss(hopeless: Curve) -> None:
    proposal = propose({1: SMALL, 2: hopeless}, [2, 1], 0.2, 0.001)
    assert [m.accept_from for m in proposal.meetings] == [0.0, 0.0]
