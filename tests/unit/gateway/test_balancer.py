"""Power of two choices over peak-EWMA."""

import random

from gateway.balancer import Loaded, PeakEwma, pick


def replica(*latencies: float, pending: int = 0) -> Loaded:
    load = PeakEwma(now=0.0)
    for latency in latencies:
        load.observe(latency, now=0.0)
    load.pending = pending
    return Loaded(load)


def test_a_peak_counts_at_once_and_fades_slowly() -> None:
    load = PeakEwma(now=0.0, decay=10.0)
    load.observe(0.010, now=0.0)
    load.observe(1.0, now=1.0)
    assert load.average == 1.0
    load.observe(0.010, now=11.0)  # One decay later: 1/e of the peak is left.
    assert 0.36 < load.average < 0.39


def test_cost_grows_with_the_calls_under_way() -> None:
    load = replica(0.010, pending=3).load
    assert load.cost(0.0) == 0.040


def test_takes_the_cheaper_of_two() -> None:
    fast, slow = replica(0.001), replica(0.100)
    chance = random.Random(1)
    assert all(pick([slow, fast], chance, 0.0) is fast for _ in range(100))


def test_of_many_every_one_but_the_dearest_gets_calls() -> None:
    replicas = [replica(0.001), replica(0.002), replica(0.003), replica(0.100)]
    chance = random.Random(1)
    counts = {id(r): 0 for r in replicas}
    for _ in range(1000):
        counts[id(pick(replicas, chance, 0.0))] += 1
    first, second, third, dearest = (counts[id(r)] for r in replicas)
    assert first > second > third > dearest == 0


def test_one_is_enough() -> None:
    only = replica()
    assert pick([only], random.Random(1), 0.0) is only


def test_a_peak_fades_while_no_call_goes_there() -> None:
    peaked, usual = replica(1.0), replica(0.010)
    assert pick([peaked, usual], random.Random(1), 1.0) is usual
    for second in range(61):
        usual.load.observe(0.010, now=second)
    assert pick([peaked, usual], random.Random(1), 60.0) is peaked


def test_a_replica_that_never_answers_costs_more_each_time_and_is_tried_again() -> None:
    """A stopped process looks quick where its calls are hedged: each is given up early."""
    stopped, busy = replica(0.010), replica(0.050)
    chance = random.Random(1)
    assert pick([stopped, busy], chance, 0.0) is stopped
    for _ in range(4):
        stopped.load.observe_at_least(0.020, 0.0)
    assert pick([stopped, busy], chance, 0.0) is busy
    assert pick([stopped, busy], chance, 4.0) is stopped
    # A call that was given up sooner than it usually takes says nothing.
    for _ in range(4):
        busy.load.observe_at_least(0.010, 0.0)
    assert pick([busy, replica(0.060)], chance, 0.0) is busy
