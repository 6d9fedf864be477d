"""The referee, by table: every rule of its docstring."""

import math

import pytest

from gateway.compiler import direct, routed
from gateway.plan import Kind, Plan
from gateway.referee import Accept, Action, Fail, Failure, Phase, Race, Start, Wait, next_action
from modelyard.catalog import Constant, Fallback, Hedge, Rendezvous, Route, Target
from modelyard.errors import (
    DeadlineExceeded,
    HostGone,
    Internal,
    InvalidTensor,
    ModelyardError,
    Overloaded,
)
from modelyard.names import VersionName

V1 = VersionName("digits", 1)
V2 = VersionName("digits", 2)
GONE, BAD, FULL, BUG = HostGone("gone"), InvalidTensor("bad"), Overloaded("full"), Internal("bug")
U, P, S, X = Phase.UNSTARTED, Phase.PENDING, Phase.SUCCEEDED, Phase.SKIPPED


def resolve(target: Target) -> VersionName:
    return VersionName("digits", target.version)


def planned(legs: tuple, attempts: int = 1, **fields: object) -> Plan:
    return routed(Route("digits", **fields), legs, attempts, resolve)


# 0 primary, 1 retry, 2 retry
RETRIED = direct(V1, 3)
# 0 primary, 1 retry, 2 hedge at 0.1
HEDGED = direct(V1, 2, Hedge(0.02))
# 0 the better version, 1 a lesser one that counts from 80 ms
RENDEZVOUS = planned(((V2, 0.0), (V1, 0.08)), rendezvous=(Rendezvous(Target(2)),))
# 0 primary, 1 fallback at half of the time, 2 a constant just inside the deadline
FALLBACK = planned(((V2, 0.0),), fallback=(Fallback(Target(1)), Fallback(Constant({"y": [0.5]}))))
LAST_CALL = 1.0 - 0.025


def race_at(plan: Plan, *attempts: Phase | ModelyardError | Failure) -> Race:
    """A race that began at 0 and ends at 1, hedges at 0.1, with its attempts as given."""
    race = Race(plan, began=0.0, deadline=1.0, hedge_at=0.1)
    for index, attempt in enumerate(attempts):
        if isinstance(attempt, Phase):
            race.phases[index] = attempt
        else:
            race.phases[index] = Phase.FAILED
            failure = attempt if isinstance(attempt, Failure) else Failure(attempt, 0.0)
            race.failures[index] = failure
    return race


def pushed_back(seconds: float) -> Failure:
    return Failure(GONE, 0.2, seconds)


@pytest.mark.parametrize(
    ("race", "now", "expected"),
    [
        pytest.param(race_at(RETRIED), 0.0, Start(0), id="the primary starts at once"),
        pytest.param(race_at(RETRIED, P), 0.0, Wait(1.0), id="then there is only waiting"),
        pytest.param(race_at(RETRIED, S), 0.5, Accept(0), id="an answer wins"),
        pytest.param(race_at(RETRIED, GONE), 0.5, Start(1), id="a lost connection is retried"),
        pytest.param(race_at(RETRIED, GONE, P), 0.5, Wait(1.0), id="one retry at a time"),
        pytest.param(race_at(RETRIED, GONE, GONE), 0.5, Start(2), id="and once more"),
        pytest.param(race_at(RETRIED, GONE, GONE, GONE), 0.5, Fail(GONE), id="then it is lost"),
        pytest.param(race_at(RETRIED, BAD), 0.5, Fail(BAD), id="the caller's error surfaces"),
        pytest.param(race_at(RETRIED, FULL), 0.5, Fail(FULL), id="overload is never retried"),
        pytest.param(race_at(RETRIED, GONE, S), 0.5, Accept(1), id="the retry's answer wins"),
        pytest.param(race_at(RETRIED, GONE, X, X), 0.5, Fail(GONE), id="no budget, no retry"),
        pytest.param(race_at(RETRIED, pushed_back(0.3)), 0.4, Wait(0.5), id="a host's pushback"),
        pytest.param(race_at(RETRIED, pushed_back(0.3)), 0.5, Start(1), id="is waited out"),
        pytest.param(race_at(RETRIED, pushed_back(math.inf)), 0.5, Fail(GONE), id="or obeyed"),
        pytest.param(race_at(HEDGED, P), 0.05, Wait(0.1), id="no hedge before its moment"),
        pytest.param(race_at(HEDGED, P), 0.1, Start(2), id="the hedge starts"),
        pytest.param(race_at(HEDGED, P, U, P), 0.2, Wait(1.0), id="both run"),
        pytest.param(race_at(HEDGED, P, U, S), 0.2, Accept(2), id="the hedge wins"),
        pytest.param(race_at(HEDGED, S, U, P), 0.2, Accept(0), id="or the primary"),
        pytest.param(race_at(HEDGED, GONE, U, P), 0.2, Wait(1.0), id="no retry beside a hedge"),
        pytest.param(race_at(HEDGED, GONE), 0.05, Start(1), id="a retry before the hedge"),
        pytest.param(race_at(HEDGED, GONE, P), 0.1, Start(2), id="a retry is hedged as well"),
        pytest.param(race_at(HEDGED, BUG), 0.05, Fail(BUG), id="nothing to hedge"),
        pytest.param(race_at(HEDGED, BAD, U, P), 0.2, Wait(1.0), id="the hedge may still win"),
        pytest.param(race_at(HEDGED, P, U, X), 0.2, Wait(1.0), id="no budget, no hedge"),
        pytest.param(race_at(RENDEZVOUS), 0.0, Start(0), id="all start"),
        pytest.param(race_at(RENDEZVOUS, P), 0.0, Start(1), id="at once"),
        pytest.param(race_at(RENDEZVOUS, P, S), 0.05, Wait(0.08), id="too early for the lesser"),
        pytest.param(race_at(RENDEZVOUS, P, S), 0.08, Accept(1), id="its moment has come"),
        pytest.param(race_at(RENDEZVOUS, S, S), 0.09, Accept(0), id="the better one wins"),
        pytest.param(race_at(RENDEZVOUS, BUG, S), 0.01, Accept(1), id="the better one cannot"),
        pytest.param(race_at(RENDEZVOUS, BUG, P), 0.9, Wait(1.0), id="no error before an answer"),
        pytest.param(race_at(RENDEZVOUS, P, BAD), 0.9, Wait(1.0), id="in either order"),
        pytest.param(race_at(FALLBACK, P), 0.1, Wait(0.5), id="half of the time"),
        pytest.param(race_at(FALLBACK, P), 0.5, Start(1), id="then the other version"),
        pytest.param(race_at(FALLBACK, BUG), 0.1, Start(1), id="or once the first has failed"),
        pytest.param(race_at(FALLBACK, BAD), 0.1, Fail(BAD), id="but not for a bad request"),
        pytest.param(race_at(FALLBACK, P, P), 0.6, Wait(LAST_CALL), id="both are waited for"),
        pytest.param(race_at(FALLBACK, P, S), 0.6, Accept(1), id="the first to succeed"),
        pytest.param(race_at(FALLBACK, P, P), LAST_CALL, Start(2), id="the constant, at the end"),
        pytest.param(race_at(FALLBACK, BUG, BUG), 0.2, Start(2), id="or when all have failed"),
        pytest.param(race_at(FALLBACK, P, P, S), LAST_CALL, Accept(2), id="it counts at once"),
    ],
)
def test_next_action(race: Race, now: float, expected: Action) -> None:
    assert next_action(race, now) == expected


def test_nothing_outlives_the_deadline() -> None:
    for race in (race_at(RETRIED), race_at(RETRIED, P), race_at(RETRIED, GONE)):
        action = next_action(race, 1.0)
        assert isinstance(action, Fail)
        assert isinstance(action.error, DeadlineExceeded)


def test_an_answer_that_is_there_counts_just_inside_the_deadline() -> None:
    late = planned(((V2, 0.0), (V1, 5.0)))
    assert next_action(race_at(late, P, S), 0.9) == Wait(LAST_CALL)
    assert next_action(race_at(late, P, S), LAST_CALL) == Accept(1)


def test_a_plan_knows_what_it_needs() -> None:
    assert (RETRIED.timed, RETRIED.alternatives) == (False, False)
    assert (HEDGED.timed, HEDGED.alternatives) == (True, False)
    assert (FALLBACK.timed, FALLBACK.alternatives) == (True, True)
    assert [a.kind for a in FALLBACK.attempts] == [Kind.PRIMARY, Kind.FALLBACK, Kind.DEFAULT]
