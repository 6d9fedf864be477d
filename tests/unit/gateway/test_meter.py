"""Tallies: quantiles within a bucket, and differences between two moments."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.meter import Meter, bucket, differences, quantile, upper_bound


@given(st.floats(1e-6, 1000.0))
def test_a_bucket_holds_its_latencies_within_nine_percent(seconds: float) -> None:
    bound = upper_bound(bucket(seconds))
    assert seconds <= bound * (1 + 1e-9)
    assert bound <= seconds * 1.0906


@given(st.lists(st.floats(1e-5, 10.0), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99]))
def test_quantile_is_near_the_exact_one(latencies: list[float], q: float) -> None:
    meter = Meter()
    for latency in latencies:
        meter.answered(("m", 1), latency)
    ranked = sorted(latencies)
    exact = ranked[max(-(-int(q * 100) * len(ranked) // 100) - 1, 0)]
    estimate = quantile(meter.of(("m", 1)).latencies, q)
    assert exact / 1.0906 <= estimate <= exact * 1.0906


def test_differences_tell_what_came_between() -> None:
    meter = Meter()
    meter.answered(("m", 1), 0.001)
    before = meter.copy()
    meter.answered(("m", 1), 0.002)
    meter.failed(("m", 2))
    between = differences(meter.copy(), before)
    assert (between["m", 1].succeeded, between["m", 1].failed) == (1, 0)
    assert between["m", 2].failed == 1
    assert sum(between["m", 1].latencies.values()) == 1
    assert between["m", 1].latencies == {bucket(0.002): 1}


def test_no_calls_no_quantile() -> None:
    assert quantile({}, 0.99) == 0.0
