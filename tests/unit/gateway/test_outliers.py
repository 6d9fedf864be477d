"""Outliers: which replicas are ejected, how many at most, and for how long."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import outliers
from gateway.outliers import IN_A_ROW, INTERVAL, LEAST_ATTEMPTS, LONGEST_REST, REST
from gateway.replicas import Replica
from modelyard.names import VersionName
from tests.kit.endpoints import CallableEndpoint, answers, host

V1 = VersionName("digits", 1)


def fleet(count: int, now: float = 0.0) -> list[Replica]:
    return [
        Replica(host(f"h{i}", V1), CallableEndpoint(answers(b"!")), now=now) for i in range(count)
    ]


def fail(replica: Replica, peers: list[Replica], now: float, times: int = IN_A_ROW) -> bool:
    told = [outliers.failed(replica, peers, now) for _ in range(times)]
    assert not any(told[: IN_A_ROW - 1])
    return told[-1]


def ejected(peers: list[Replica], now: float) -> list[str]:
    return [replica.host for replica in peers if replica.record.ejected_until > now]


def test_five_failures_in_a_row_eject() -> None:
    peers = fleet(3)
    assert not fail(peers[1], peers, 1.0, times=IN_A_ROW - 1)
    assert ejected(peers, 1.0) == []
    assert outliers.failed(peers[1], peers, 1.0)
    assert ejected(peers, 1.0) == ["h1"]
    assert peers[1].rests_until == 1.0 + REST
    assert peers[0].rests_until == peers[2].rests_until == 0.0


def test_a_success_between_begins_the_row_anew() -> None:
    peers = fleet(3)
    for _ in range(3):
        fail(peers[1], peers, 1.0, times=IN_A_ROW - 1)
        peers[1].succeeded()
    assert ejected(peers, 1.0) == []


def test_the_last_one_is_never_ejected() -> None:
    peers = fleet(1)
    assert not any(outliers.failed(peers[0], peers, 1.0) for _ in range(50))
    assert peers[0].rests_until == 0.0


def test_of_two_only_one_is_ejected() -> None:
    peers = fleet(2)
    assert fail(peers[0], peers, 1.0)
    assert not any(outliers.failed(peers[1], peers, 1.0) for _ in range(50))
    assert ejected(peers, 1.0) == ["h0"]
    # Its rest over, the other's turn comes.
    assert outliers.failed(peers[1], peers, 1.0 + REST)
    assert ejected(peers, 1.0 + REST) == ["h1"]


@pytest.mark.parametrize(
    ("count", "most"), [(1, 0), (2, 1), (5, 1), (10, 1), (19, 1), (20, 2), (39, 3)]
)
def test_at_most_a_tenth_rests_or_one(count: int, most: int) -> None:
    peers = fleet(count)
    for replica in peers:
        for _ in range(2 * IN_A_ROW):
            outliers.failed(replica, peers, 1.0)
    assert len(ejected(peers, 1.0)) == most


def test_rests_grow_up_to_five_minutes() -> None:
    peers, now, seen = fleet(3), 1000.0, list[float]()
    for _ in range(12):
        assert fail(peers[0], peers, now)
        seen.append(peers[0].record.ejected_until - now)
        assert peers[0].rests_until == peers[0].record.ejected_until
        now = peers[0].record.ejected_until
    assert seen == [min(REST * n, LONGEST_REST) for n in range(1, 13)]
    # A long time without ejections is forgiven.
    now += LONGEST_REST + 1
    fail(peers[0], peers, now)
    assert peers[0].record.ejected_until == now + REST


def test_failures_of_one_moment_eject_once() -> None:
    peers = fleet(3)
    for _ in range(50):
        outliers.failed(peers[0], peers, 1.0)
    assert peers[0].record.ejected_until == 1.0 + REST


def test_a_longer_rest_of_another_kind_stands() -> None:
    peers = fleet(3)
    peers[0].rests_until = 500.0
    assert fail(peers[0], peers, 1.0)
    assert peers[0].rests_until == 500.0


def attempted(peers: list[Replica], rates: list[float], attempts: int = LEAST_ATTEMPTS) -> None:
    """Gives each replica its attempts, of which such a share succeeded; never 5 in a row."""
    for replica, rate in zip(peers, rates, strict=True):
        replica.record.succeeded = round(rate * attempts)
        replica.record.failed = attempts - replica.record.succeeded


def test_a_success_rate_far_under_the_others_ejects() -> None:
    peers = fleet(6)
    attempted(peers, [1.0, 0.99, 1.0, 0.99, 0.7, 1.0])
    # Any failure brings the interval to its end, whoever fails.
    assert outliers.failed(peers[0], peers, INTERVAL)
    assert ejected(peers, INTERVAL) == ["h4"]


def test_every_interval_counts_anew() -> None:
    peers = fleet(6)
    attempted(peers, [1.0, 1.0, 1.0, 1.0, 0.7, 1.0])
    outliers.failed(peers[0], peers, INTERVAL)
    assert all(replica.record.attempts == 0 for replica in peers)
    assert all(replica.record.since == INTERVAL for replica in peers)


def test_nothing_is_compared_within_an_interval() -> None:
    peers = fleet(6)
    attempted(peers, [1.0, 1.0, 1.0, 1.0, 0.7, 1.0])
    assert not outliers.failed(peers[0], peers, INTERVAL - 0.1)
    assert ejected(peers, INTERVAL - 0.1) == []


@pytest.mark.parametrize(
    ("rates", "attempts", "reason"),
    [
        ([1.0, 1.0, 1.0, 0.5], LEAST_ATTEMPTS, "four replicas tell nothing"),
        ([1.0, 1.0, 1.0, 1.0, 1.0, 0.5], LEAST_ATTEMPTS // 2, "nor do few attempts"),
        ([0.5] * 6, LEAST_ATTEMPTS, "all are as bad"),
        ([1.0, 1.0, 1.0, 0.5, 0.5, 0.5], LEAST_ATTEMPTS, "half of them are"),
    ],
)
def test_no_outlier(rates: list[float], attempts: int, reason: str) -> None:
    peers = fleet(len(rates))
    attempted(peers, rates, attempts)
    peers[0].record.failed -= 1  # Which comes now.
    assert not outliers.failed(peers[0], peers, INTERVAL), reason
    assert ejected(peers, INTERVAL) == []


def test_one_failure_among_thousands_ejects_nobody() -> None:
    peers = fleet(6)
    attempted(peers, [1.0] * 6, attempts=5000)
    assert not outliers.failed(peers[0], peers, INTERVAL)


def test_outliers_by_rate_are_bounded_as_well() -> None:
    peers = fleet(12)
    attempted(peers, [0.5, 0.5, *[1.0] * 10])
    outliers.failed(peers[2], peers, INTERVAL)
    assert len(ejected(peers, INTERVAL)) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 25), st.integers(0, 2**32), st.floats(0.05, 1.0))
def test_whatever_fails_somebody_is_left(count: int, seed: int, failing: float) -> None:
    chance, peers, now = random.Random(seed), fleet(count), 0.0
    for _ in range(200):
        now += chance.choice((0.0, 0.01, 1.0, 20.0))
        replica = chance.choice(peers)
        if chance.random() < failing:
            outliers.failed(replica, peers, now)
        else:
            replica.succeeded()
        out = len(ejected(peers, now))
        assert out <= max(1, count // 10)
        assert out < count
        assert all(r.record.ejected_until - now <= LONGEST_REST + 1e-6 for r in peers)
