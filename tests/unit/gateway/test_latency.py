"""When hedges start: quantiles of what was seen of late."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.latency import (
    AIM,
    LEAST_DATA,
    LEAST_OF_A_REPLICA,
    LONGEST,
    REFRESH,
    SHORTEST,
    SOON,
    Latencies,
    Trigger,
    Window,
    size_class,
)
from gateway.meter import bucket, upper_bound
from modelyard.names import VersionName

V1 = VersionName("digits", 1)
V2 = VersionName("digits", 2)
# A bucket's width, and a little for the rounding of its bounds.
WIDTH = 2 ** (1 / 8) * (1 + 1e-9)


def fed(*latencies: float, host: str = "a", now: float = 0.0) -> Latencies:
    found = Latencies()
    for latency in latencies:
        found.add(V1, host, 5, latency, now)
    return found


def delay(found: Latencies, load: float, now: float = 0.0) -> float:
    trigger = found.trigger(V1, 5, load, now)
    assert trigger is not None
    return trigger.delay


def test_no_trigger_without_data() -> None:
    assert fed().trigger(V1, 5, 0.02, 0.0) is None
    assert fed(*[0.01] * (LEAST_DATA - 1)).trigger(V1, 5, 0.02, 0.0) is None
    assert fed(*[0.01] * LEAST_DATA).trigger(V1, 5, 0.02, 0.0) is not None


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(SHORTEST, 1.8), min_size=LEAST_DATA, max_size=LEAST_OF_A_REPLICA - 1),
    st.floats(0.001, 1.0),
)
def test_the_trigger_is_the_quantile_within_a_bucket(latencies: list[float], load: float) -> None:
    trigger = fed(*latencies).trigger(V1, 5, load, 0.0)
    assert trigger is not None
    ranked = sorted(latencies)

    def exact(q: float) -> float:
        return ranked[max(math.ceil(q * len(ranked)) - 1, 0)]

    wanted = exact(1.0 - AIM * load)
    assert wanted / WIDTH <= trigger.delay <= wanted * WIDTH
    assert exact(0.5) / WIDTH <= trigger.median <= exact(0.5) * WIDTH


@pytest.mark.parametrize("load", [0.01, 0.05, 0.2, 0.5])
def test_fewer_calls_are_slower_than_the_trigger_than_may_be_hedged(load: float) -> None:
    chance = random.Random(7)
    latencies = [chance.lognormvariate(-4.0, 0.5) for _ in range(10_000)]
    found = delay(fed(*latencies), load)
    assert sum(latency > found for latency in latencies) <= load * len(latencies)


def test_a_higher_load_hedges_sooner() -> None:
    found = fed(*(0.001 * n for n in range(1, 201)))
    delays = [delay(found, load) for load in (0.01, 0.1, 0.5, 1.0)]
    assert delays == sorted(delays, reverse=True)
    assert delays[0] > delays[-1]


def test_never_under_a_millisecond() -> None:
    assert fed(*[0.0001] * 100).trigger(V1, 5, 0.02, 0.0) == Trigger(
        SHORTEST, upper_bound(bucket(0.0001))
    )


def test_never_above_two_seconds() -> None:
    assert fed(*[LONGEST * 1.1] * 100).trigger(V1, 5, 0.02, 0.0) is None
    assert fed(*[LONGEST * 0.8] * 100).trigger(V1, 5, 0.02, 0.0) is not None
    # The tail counts, not the rest.
    assert fed(*[0.01] * 90, *[5.0] * 10).trigger(V1, 5, 0.02, 0.0) is None
    assert fed(*[0.01] * 90, *[5.0] * 10).trigger(V1, 5, 0.5, 0.0) is not None


def test_a_slow_replica_does_not_lift_the_trigger() -> None:
    alone = delay(fed(*[0.01] * LEAST_OF_A_REPLICA), 0.02)
    both = fed(*[0.01] * LEAST_OF_A_REPLICA)
    for _ in range(LEAST_OF_A_REPLICA):
        both.add(V1, "slow", 5, 1.0, 0.0)
    assert delay(both, 0.02) == alone


def test_a_replica_of_few_calls_does_not_lower_it() -> None:
    found = fed(*[0.1] * 1000)
    for _ in range(LEAST_OF_A_REPLICA - 1):
        found.add(V1, "new", 5, 0.002, 0.0)
    assert delay(found, 0.02) == upper_bound(bucket(0.1))


def test_size_classes_are_apart() -> None:
    found = fed(*[0.01] * 100)
    for _ in range(100):
        found.add(V1, "a", 9, 0.5, 0.0)
    assert delay(found, 0.02) == upper_bound(bucket(0.01))
    bigger = found.trigger(V1, 9, 0.02, 0.0)
    assert bigger == Trigger(upper_bound(bucket(0.5)), upper_bound(bucket(0.5)))
    assert found.trigger(V1, 6, 0.02, 0.0) is None


def test_versions_are_apart() -> None:
    assert fed(*[0.01] * 100).trigger(V2, 5, 0.02, 0.0) is None


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_payloads_of_one_class_differ_by_less_than_a_factor_of_four(one: int, other: int) -> None:
    small, big = sorted((one, other))
    if size_class(small) == size_class(big):
        assert big < 4 * max(small, 1)
    else:
        assert size_class(small) < size_class(big)


@pytest.mark.parametrize("began", [0.0, 9.9, 10.0, 12345.0, 1e6 + 3.0])
def test_windows_keep_for_twenty_seconds_and_forget_after_thirty(began: float) -> None:
    window = Window()
    window.add(0.01, began)
    assert window.counts(began + 19.9) == {bucket(0.01): 1}
    assert window.counts(began + 30.0) == {}


def test_a_long_silence_forgets_everything() -> None:
    window = Window()
    for now in (0.0, 10.0, 20.0):
        window.add(0.01, now)
    assert sum(window.counts(20.0).values()) == 3
    assert window.counts(1e6) == {}
    window.add(0.02, 1e6)
    assert window.counts(1e6) == {bucket(0.02): 1}


def test_a_window_slides() -> None:
    window = Window()
    for second in range(100):
        window.add(0.01, second)
        held = sum(window.counts(second).values())
        assert min(second + 1, 21) <= held <= 30


def test_old_latencies_leave_the_trigger() -> None:
    found = fed(*[1.0] * 100)
    for _ in range(100):
        found.add(V1, "a", 5, 0.01, 31.0)
    assert delay(found, 0.02, now=31.0) == upper_bound(bucket(0.01))


def test_no_trigger_once_all_is_old() -> None:
    found = fed(*[0.01] * 100)
    assert found.trigger(V1, 5, 0.02, 0.0) is not None
    assert found.trigger(V1, 5, 0.02, 31.0) is None


def test_the_trigger_is_looked_up_every_three_seconds() -> None:
    found = fed(*[0.01] * 100)
    before = delay(found, 0.02, now=0.0)
    for _ in range(10_000):
        found.add(V1, "a", 5, 0.1, 0.0)
    assert delay(found, 0.02, now=REFRESH - 0.01) == before
    assert delay(found, 0.02, now=REFRESH) == upper_bound(bucket(0.1))


def test_that_nothing_is_known_is_looked_up_again_sooner() -> None:
    found = fed()
    assert found.trigger(V1, 5, 0.02, 0.0) is None
    for _ in range(100):
        found.add(V1, "a", 5, 0.01, 0.0)
    assert found.trigger(V1, 5, 0.02, SOON / 2) is None
    assert found.trigger(V1, 5, 0.02, SOON) is not None


def test_a_median_of_too_little_is_none() -> None:
    assert fed(*[0.01] * 10).median(V1, 5, 0.0) == 0.0
    assert fed(*[0.01] * 60).median(V1, 5, 0.0) == upper_bound(bucket(0.01))
