"""Survival curves, against scipy's."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import CensoredData, ecdf

from gateway.meter import bucket, upper_bound
from gateway.survival import MOST, Observed, Point, answered_by, curve

# In buckets; few, so that there are ties.
indices = st.integers(1, 200)


def observed(answered: list[int], cancelled: list[int], failed: int) -> Observed:
    """What was seen, put into the middle of its buckets."""
    found = Observed(failed=failed)
    for index in answered:
        found.answer(upper_bound(index) * 0.99)
    for index in cancelled:
        found.cancel(upper_bound(index) * 0.99)
    return found


def test_seen_latencies_go_where_these_tests_think() -> None:
    assert all(bucket(upper_bound(index) * 0.99) == index for index in range(1, 201))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(indices, min_size=1, max_size=60),
    st.lists(indices, max_size=60),
    st.integers(0, 20),
)
def test_it_is_kaplan_meier(answered: list[int], cancelled: list[int], failed: int) -> None:
    found = curve(observed(answered, cancelled, failed))

    # What failed is at risk for longer than anything is seen.
    right = [upper_bound(index) for index in cancelled] + [1e9] * failed
    theirs = ecdf(CensoredData([upper_bound(index) for index in answered], right=right))
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # It has no interval where all answered.
        interval = theirs.cdf.confidence_interval(0.95, method="log-log")
    expected = {
        round(float(at), 12): (share, low, high)
        for at, share, low, high in zip(
            theirs.cdf.quantiles,
            theirs.cdf.probabilities,
            interval.low.probabilities,
            interval.high.probabilities,
            strict=True,
        )
    }

    assert [point.after for point in found] == [upper_bound(n) for n in sorted(set(answered))]
    for point in found:
        share, low, high = expected[round(point.after, 12)]
        assert point.answered == pytest.approx(share, abs=1e-9)
        assert point.lower <= point.answered + 1e-12
        assert point.answered <= point.upper + 1e-12
        if math.isfinite(low) and math.isfinite(high):
            assert point.lower == pytest.approx(low, abs=1e-6)
            assert point.upper == pytest.approx(high, abs=1e-6)
        else:
            assert (point.lower, point.upper) == (point.answered, point.answered)


@given(st.lists(indices), st.lists(indices), st.integers(0, 20))
def test_a_curve_only_rises(answered: list[int], cancelled: list[int], failed: int) -> None:
    found = curve(observed(answered, cancelled, failed))
    assert [p.after for p in found] == sorted({p.after for p in found})
    assert [p.answered for p in found] == sorted(p.answered for p in found)
    assert all(0.0 <= p.lower <= p.upper <= 1.0 for p in found)


def test_no_data_no_curve() -> None:
    assert curve(Observed()) == ()
    assert answered_by((), 1e9) == 0.0


def test_only_cancelled_ones_tell_of_no_answer() -> None:
    assert curve(observed([], [10, 20, 20], 0)) == ()


def test_only_failures_tell_of_no_answer() -> None:
    assert curve(observed([], [], 100)) == ()


def test_without_losers_it_is_the_share_that_answered() -> None:
    found = curve(observed([8, 16, 16, 24], [], 0))
    assert [p.answered for p in found] == [pytest.approx(s) for s in (0.25, 0.75, 1.0)]
    assert found[-1] == Point(upper_bound(24), 1.0, 1.0, 1.0)


def test_a_loser_would_have_taken_longer() -> None:
    # Half is cancelled before anything slow is seen: what is slow is all the likelier.
    found = curve(observed([8] * 50 + [80] * 25, [40] * 25, 0))
    assert [p.answered for p in found] == [pytest.approx(0.5), pytest.approx(1.0)]
    left_out = curve(observed([8] * 50 + [80] * 25, [], 0))
    assert left_out[0].answered == pytest.approx(2 / 3)


def test_what_is_cancelled_in_a_bucket_was_at_risk_for_its_answers() -> None:
    assert curve(observed([8], [8], 0))[0].answered == pytest.approx(0.5)
    assert curve(observed([8], [7], 0))[0].answered == pytest.approx(1.0)


def test_what_failed_is_at_risk_for_ever() -> None:
    found = curve(observed([8, 100, 200], [], 3))
    assert found[-1].answered == pytest.approx(0.5)


def test_more_data_narrow_the_interval() -> None:
    few = curve(observed([8] * 9 + [16], [], 0))[0]
    many = curve(observed([8] * 900 + [16] * 100, [], 0))[0]
    assert few.answered == many.answered == pytest.approx(0.9)
    assert few.lower < many.lower < 0.9 < many.upper < few.upper


def test_answered_by_is_a_step() -> None:
    points = (Point(0.1, 0.4, 0.3, 0.5), Point(0.2, 0.9, 0.8, 0.95))
    shares = [answered_by(points, at) for at in (0.0, 0.0999, 0.1, 0.15, 0.2, 5.0)]
    assert shares == [0.0, 0.0, 0.4, 0.4, 0.9, 0.9]


def test_everything_counts_in_the_total() -> None:
    assert observed([8, 8, 9], [8, 10], 4).total == 9
    assert Observed().total == 0


def test_a_curve_forgets_and_keeps_its_shape() -> None:
    found = observed([8] * 600 + [16] * 300, [12] * 100, 100)
    before = curve(found)
    found.seen = MOST - 1
    found.fail()
    assert (found.total, found.seen) == (551, 551)
    for whole, half in zip(before, curve(found), strict=True):
        assert half.answered == pytest.approx(whole.answered, abs=0.01)
        assert half.upper - half.lower > whole.upper - whole.lower
