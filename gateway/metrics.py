"""What Prometheus reads of the gateway: taken from the meter when it is read."""

import math
from collections.abc import Callable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway.guards import Guards
from gateway.meter import Meter, upper_bound
from gateway.replicas import Replicas
from gateway.tap import Tap

# Seconds; the meter's finer buckets are added up into these (OpenTelemetry's advice for RPC
# durations, from a tenth of a millisecond on).
_BOUNDS: tuple[float, ...] = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25),
    *(0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_LABELS = ["model", "version"]


class TrafficCollector(Collector):
    """Calls, attempts and durations by version, and the state of replicas and guards."""

    def __init__(
        self,
        meter: Meter,
        replicas: Replicas,
        guards: Guards,
        clock: Callable[[], float],
        tap: Tap | None = None,
    ) -> None:
        self._tap = tap
        self._meter = meter
        self._replicas = replicas
        self._guards = guards
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        calls = CounterMetricFamily(
            "modelyard_calls", "Inference calls by outcome.", labels=[*_LABELS, "outcome"]
        )
        attempts = CounterMetricFamily(
            "modelyard_attempts",
            "Attempts by kind (primary, retry, hedge, fallback, rendezvous, default) and event"
            " (started, won, failed, cancelled).",
            labels=[*_LABELS, "kind", "event"],
        )
        exhausted = CounterMetricFamily(
            "modelyard_budget_exhausted",
            "Retries and hedges that were not made because the extra-load budget was spent.",
            labels=_LABELS,
        )
        durations = HistogramMetricFamily(
            "rpc_server_call_duration_seconds", "Calls that succeeded.", labels=_LABELS
        )
        for (model, number), tally in sorted(self._meter.copy().items()):
            labels = [model, str(number) if number else ""]
            calls.add_metric([*labels, "success"], tally.succeeded)
            calls.add_metric([*labels, "failure"], tally.failed)
            exhausted.add_metric(labels, tally.exhausted)
            for kind, counted in tally.attempts.items():
                for event in ("started", "won", "failed", "cancelled"):
                    attempts.add_metric([*labels, kind, event], getattr(counted, event))
            durations.add_metric(labels, _buckets(tally.latencies), tally.seconds)
        yield calls
        yield attempts
        yield exhausted
        yield durations
        pending = GaugeMetricFamily(
            "modelyard_replica_pending", "Calls under way.", labels=[*_LABELS, "host"]
        )
        lanes = GaugeMetricFamily(
            "modelyard_replica_lane",
            "1 at the lane that the next call takes.",
            labels=[*_LABELS, "host", "lane"],
        )
        for replica in self._replicas.all():
            labels = [replica.version.model, str(replica.version.number), replica.host]
            pending.add_metric(labels, replica.load.pending)
            lanes.add_metric([*labels, replica.endpoint.lane], 1)
        yield pending
        yield lanes
        yield from self._limits()
        if self._tap is not None:
            yield from _event_log(self._tap)

    def _limits(self) -> Iterator[Metric]:
        limit = GaugeMetricFamily(
            "modelyard_limit", "Attempts that the version gets at a time.", labels=_LABELS
        )
        in_flight = GaugeMetricFamily("modelyard_in_flight", "Attempts under way.", labels=_LABELS)
        waiting = GaugeMetricFamily(
            "modelyard_waiting", "Attempts that wait for room.", labels=_LABELS
        )
        circuit = GaugeMetricFamily(
            "modelyard_circuit_open", "1 while calls with another way go around.", labels=_LABELS
        )
        for version, limiter in sorted(self._guards.limits().items()):
            labels = [version.model, str(version.number)]
            limit.add_metric(labels, math.ceil(limiter.gradient.limit))
            in_flight.add_metric(labels, limiter.in_flight)
            waiting.add_metric(labels, limiter.waiting)
            circuit.add_metric(labels, self._guards.circuits.is_open(version, self._clock()))
        yield from (limit, in_flight, waiting, circuit)


def _event_log(tap: Tap) -> Iterator[Metric]:
    events = CounterMetricFamily(
        "modelyard_tap_records", "Calls that the tap sampled, by outcome.", labels=["outcome"]
    )
    events.add_metric(["written"], tap.counts.written)
    events.add_metric(["dropped"], tap.counts.dropped)
    waiting = GaugeMetricFamily(
        "modelyard_tap_waiting", "Records that wait to be written.", value=tap.waiting
    )
    yield from (events, waiting)


def _buckets(latencies: dict[int, int]) -> list[tuple[str, float]]:
    """Cumulative counts under each bound."""
    buckets: list[tuple[str, float]] = []
    left = sorted(latencies.items())
    seen = at = 0
    for bound in _BOUNDS:
        while at < len(left) and upper_bound(left[at][0]) <= bound:
            seen += left[at][1]
            at += 1
        buckets.append((str(bound), seen))
    buckets.append(("+Inf", sum(latencies.values())))
    return buckets
