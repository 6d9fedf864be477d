"""Metrics of several processes as those of one."""

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.workers.merging import Ledger, Merged, families, merged
from modelyard.telemetry import registry_of


def text_of(calls: int, seconds: float = 0.2, limit: float = 10.0, is_open: int = 0) -> str:
    registry = CollectorRegistry()
    counter = Counter("modelyard_calls", "Calls.", ["model"], registry=registry)
    counter.labels('a "model"\n').inc(calls)
    histogram = Histogram("took_seconds", "Took.", buckets=(0.1, 1.0), registry=registry)
    for _ in range(calls):
        histogram.observe(seconds)
    Gauge("modelyard_limit", "Limit.", ["model"], registry=registry).labels("m").set(limit)
    Gauge("modelyard_circuit_open", "Open.", registry=registry).set(is_open)
    return generate_latest(registry).decode()


def value(metrics: Any, name: str, **labels: str) -> Any:
    (found,) = [
        s.value for m in metrics for s in m.samples if s.name == name and s.labels == labels
    ]
    return found


def test_sums_and_what_is_no_sum() -> None:
    ledger = Ledger()
    ledger.hear(0, "a", text_of(3, 0.05, 10.0))
    ledger.hear(1, "b", text_of(4, 0.5, 2.5, 1))
    whole = list(ledger.whole([0, 1]))
    assert value(whole, "modelyard_calls_total", model='a "model"\n') == 7
    assert value(whole, "took_seconds_count") == 7
    assert value(whole, "took_seconds_bucket", le="0.1") == 3
    assert value(whole, "took_seconds_bucket", le="+Inf") == 7
    assert value(whole, "took_seconds_sum") == pytest.approx(3 * 0.05 + 4 * 0.5)
    assert value(whole, "modelyard_limit", model="m") == 12.5
    assert value(whole, "modelyard_circuit_open") == 1


def test_of_the_processes_themselves() -> None:
    text = generate_latest(registry_of([])).decode()
    whole = [f.metric() for f in merged([families(text), families(text)]).values()]
    (one,) = [m for m in registry_of([]).collect() if m.name == "process_start_time_seconds"]
    assert value(whole, "process_start_time_seconds") == one.samples[0].value
    (info,) = [m for m in whole if m.name == "python_info"]
    assert [s.value for s in info.samples] == [1]


def test_no_counter_falls_when_a_process_is_started_again() -> None:
    ledger = Ledger()
    calls = {"name": "modelyard_calls_total", "model": 'a "model"\n'}
    ledger.hear(0, "a", text_of(3))
    ledger.hear(1, "b", text_of(4, limit=2.0))
    # It is gone, and heard no more.
    whole = list(ledger.whole([0]))
    assert value(whole, **calls) == 7
    assert value(whole, "modelyard_limit", model="m") == 10
    # Another one is there in its place.
    ledger.hear(1, "c", text_of(1, limit=5.0))
    whole = list(ledger.whole([0, 1]))
    assert value(whole, **calls) == 8
    assert value(whole, "modelyard_limit", model="m") == 15
    ledger.hear(1, "d", text_of(2))
    assert value(list(ledger.whole([1])), **calls) == 10


async def test_what_prometheus_reads() -> None:
    async def ask():
        return [(0, "a", text_of(1)), (1, "b", text_of(2))]

    registry = CollectorRegistry()
    registry.register(Merged(ask, asyncio.get_running_loop()))
    text = (await asyncio.to_thread(generate_latest, registry)).decode()
    assert "took_seconds_count 3.0" in text
    assert "# TYPE modelyard_calls_total counter" in text
