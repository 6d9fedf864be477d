"""Gates and verdicts: tables, and what holds of any evidence."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shadow.statistics import Interval, Latencies, Mean, Share
from services.shadow.verdict import (
    Decision,
    Excess,
    Gate,
    Kind,
    Slowness,
    Verdict,
    conclude,
    needed,
    part,
    slice_part,
    stand,
)

P, F, O, N = Decision.PASS, Decision.FAIL, Decision.OPEN, Decision.NO_DATA  # noqa: E741


@pytest.mark.parametrize(
    ("gates", "small", "verdict"),
    [
        ((), (), Verdict.NO_DATA),
        ((N, N), (), Verdict.NO_DATA),
        ((P, N), (), Verdict.INCONCLUSIVE),
        ((P, O), (), Verdict.INCONCLUSIVE),
        ((P, P), (), Verdict.PROMOTE),
        ((P, P), (O, N), Verdict.PROMOTE),
        ((P, P), (P, F), Verdict.REJECT),
        ((F, N), (), Verdict.REJECT),
        ((F, P), (), Verdict.REJECT),
        ((N, N), (F,), Verdict.REJECT),
    ],
)
def test_what_follows_from_the_gates(gates, small, verdict):
    assert conclude(gates, small) is verdict


@pytest.mark.parametrize(
    ("large", "verdict"),
    [
        ((P, P), Verdict.PROMOTE),
        ((P, O), Verdict.INCONCLUSIVE),
        ((N,), Verdict.INCONCLUSIVE),
        ((P, F), Verdict.REJECT),
    ],
)
def test_a_promotion_waits_for_large_parts_of_the_traffic(large, verdict):
    assert conclude((P, P), (O, N), large) is verdict


def mean(value, count, low=0.0):
    sequence = Mean(low)
    for _ in range(count):
        sequence.add(value)
    return sequence


def bernoulli(share, count):
    sequence, owed = Mean(), 0.0
    for _ in range(count):
        owed += share
        sequence.add(float(owed >= 1.0))
        owed -= owed >= 1.0
    return sequence


GATE = Gate(Kind.DIFFERENCE, 0.02)


@pytest.mark.parametrize(
    ("evidence", "decision"),
    [
        (Excess(Mean(), Mean()), N),
        (Excess(mean(0.0, 30), Mean()), O),
        (Excess(mean(0.0, 2000), Mean()), P),
        (Excess(mean(0.5, 200), Mean()), F),
        (Excess(bernoulli(0.02, 5000), Mean()), O),
        # It differs much, and so does the baseline from itself.
        (Excess(mean(0.3, 5000), mean(0.3, 3000)), P),
        (Excess(mean(0.3, 5000), mean(0.1, 3000)), F),
    ],
)
def test_where_a_gate_stands(evidence, decision):
    assert stand(GATE, evidence, 0.01).decision is decision


def latencies(seconds, count):
    held = Latencies()
    for index in range(count):
        held.add(seconds * (1 + 0.2 * (index % 10) / 10))
    return held


@pytest.mark.parametrize(
    ("times", "count", "decision"),
    [(1.0, 2000, P), (3.0, 2000, F), (1.2, 2000, O), (3.0, 5, O), (0.5, 0, N)],
)
def test_latency_by_a_ratio_of_quantiles(times, count, decision):
    gate = Gate(Kind.LATENCY, 1.2, quantile=0.9)
    evidence = Slowness(latencies(0.01 * times, count), latencies(0.01, count), 0.9)
    assert stand(gate, evidence, 0.01).decision is decision


def test_errors_are_a_share():
    gate = Gate(Kind.ERRORS, 0.005)
    assert stand(gate, Share(5000, 0), 0.01).decision is P
    assert stand(gate, Share(30, 30), 0.01).decision is F
    assert stand(gate, Share(100, 1), 0.01).decision is O


def test_a_forecast_is_where_the_gate_then_is_decided():
    for evidence in (
        Excess(mean(0.0, 50), Mean()),
        Excess(bernoulli(0.01, 500), Mean()),
        Excess(bernoulli(0.04, 200), bernoulli(0.005, 50)),
        Slowness(latencies(0.0135, 20), latencies(0.01, 20), 0.5),
        Share(50, 0),
    ):
        gate = Gate(Kind.LATENCY, 1.2) if isinstance(evidence, Slowness) else GATE
        more = needed(gate, evidence, 0.01)
        assert more is not None and more > 0
        then = stand(gate, evidence.grown(evidence.count + more), 0.01)
        assert then.decision in (P, F)
        before = stand(gate, evidence.grown(evidence.count + int(more * 0.9)), 0.01)
        assert before.decision is O


def test_no_forecast_on_the_margin_or_without_data():
    assert needed(GATE, Excess(Mean(), Mean()), 0.01) is None
    on_it = Mean(count=10_000, total=200.0, variance=196.0)
    assert needed(GATE, Excess(on_it, Mean()), 0.01) is None
    assert needed(GATE, Excess(mean(0.0, 2000), Mean()), 0.01) == 0


def test_the_parts_of_alpha_sum_to_it():
    assert sum(part(0.05, 4) for _ in range(4)) == pytest.approx(0.05)
    assert sum(slice_part(0.05, order) for order in range(1, 20_000)) <= 0.05
    assert sum(slice_part(0.05, order) for order in range(1, 20_000)) > 0.0499


@given(
    st.lists(st.floats(0, 1), max_size=40),
    st.lists(st.floats(0, 1), max_size=40),
    st.floats(0.001, 0.2),
)
def test_more_noise_never_makes_a_candidate_worse(differences, noises, alpha):
    difference, quiet, loud = Mean(), Mean(), Mean()
    for value in differences:
        difference.add(value)
    for _ in noises:
        quiet.add(0.0)
        loud.add(1.0)
    one = Excess(difference, quiet).interval(alpha)
    other = Excess(difference, loud).interval(alpha)
    assert other.upper <= one.upper
    assert other.lower <= one.lower


def test_intervals_subtract_as_intervals():
    assert Interval(1.0, 2.0).minus(Interval(0.5, 3.0)) == Interval(-2.0, 1.5)
    assert math.isnan(Excess(Mean(), Mean()).estimate)
