"""The referee, by table: every rule of its docstring."""

import pytest

from gateway.plan import Attempt, Kind, Plan, retrying
from gateway.referee import Accept, Action, Fail, Phase, Race, Start, Wait, next_action
from modelyard.errors import (
    DeadlineExceeded,
    HostGone,
    InvalidTensor,
    ModelyardError,
    Overloaded,
)
from modelyard.names import VersionName

V1 = VersionName("digits", 1)
V2 = VersionName("digits", 2)
RETRIED = retrying(V1, 3)
# A better version, and a lesser one that counts from 80 ms.
RENDEZVOUS = Plan(
    (
        Attempt(Kind.PRIMARY, V2, start_at=0.0),
        Attempt(Kind.PRIMARY, V1, start_at=0.0, accept_from=0.08),
    )
)
GONE, BAD, FULL = HostGone("gone"), InvalidTensor("bad"), Overloaded("full")
U, P, S = Phase.UNSTARTED, Phase.PENDING, Phase.SUCCEEDED


def race_at(plan: Plan, *attempts: Phase | ModelyardError) -> Race:
    """A race that began at 0 and ends at 1, with its attempts as given."""
    race = Race(plan, began=0.0, deadline=1.0)
    for index, attempt in enumerate(attempts):
        if isinstance(attempt, ModelyardError):
            race.phases[index] = Phase.FAILED
            race.errors[index] = attempt
        else:
            race.phases[index] = attempt
    return race


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
        pytest.param(race_at(RENDEZVOUS), 0.0, Start(0), id="all start"),
        pytest.param(race_at(RENDEZVOUS, P), 0.0, Start(1), id="at their own times"),
        pytest.param(race_at(RENDEZVOUS, P, S), 0.05, Wait(0.08), id="too early for the lesser"),
        pytest.param(race_at(RENDEZVOUS, P, S), 0.08, Accept(1), id="its moment has come"),
        pytest.param(race_at(RENDEZVOUS, S, S), 0.09, Accept(0), id="the better one wins"),
        pytest.param(race_at(RENDEZVOUS, BAD, S), 0.01, Accept(1), id="the better one cannot"),
        pytest.param(race_at(RENDEZVOUS, BAD, P), 0.9, Wait(1.0), id="no error before an answer"),
        pytest.param(race_at(RENDEZVOUS, P, BAD), 0.9, Wait(1.0), id="in either order"),
    ],
)
def test_next_action(race: Race, now: float, expected: Action) -> None:
    assert next_action(race, now) == expected


def test_nothing_outlives_the_deadline() -> None:
    for race in (race_at(RETRIED), race_at(RETRIED, P), race_at(RETRIED, GONE)):
        action = next_action(race, 1.0)
        assert isinstance(action, Fail)
        assert isinstance(action.error, DeadlineExceeded)


def test_an_answer_that_has_come_is_given_even_at_the_deadline() -> None:
    assert next_action(race_at(RENDEZVOUS, P, S), 1.0) == Accept(1)
