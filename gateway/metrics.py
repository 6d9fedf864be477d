"""What Prometheus reads of the gateway: taken from the meter when it is read."""

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway.meter import Meter, upper_bound
from gateway.replicas import Replicas

# Seconds; the meter's finer buckets are added up into these (OpenTelemetry's advice for RPC
# durations, from a tenth of a millisecond on).
_BOUNDS: tuple[float, ...] = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25),
    *(0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_LABELS = ["model", "version"]


class TrafficCollector(Collector):
    """Calls, retries and durations by version, and the replicas' state."""

    def __init__(self, meter: Meter, replicas: Replicas) -> None:
        self._meter = meter
        self._replicas = replicas

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        calls = CounterMetricFamily(
            "modelyard_calls", "Inference calls by outcome.", labels=[*_LABELS, "outcome"]
        )
        retries = CounterMetricFamily(
            "modelyard_retries", "Attempts that were retries.", labels=_LABELS
        )
        durations = HistogramMetricFamily(
            "rpc_server_call_duration_seconds", "Calls that succeeded.", labels=_LABELS
        )
        for (model, number), tally in sorted(self._meter.copy().items()):
            labels = [model, str(number) if number else ""]
            calls.add_metric([*labels, "success"], tally.succeeded)
            calls.add_metric([*labels, "failure"], tally.failed)
            retries.add_metric(labels, tally.retries)
            durations.add_metric(labels, _buckets(tally.latencies), tally.seconds)
        yield calls
        yield retries
        yield durations
        pending = GaugeMetricFamily(
            "modelyard_replica_pending", "Calls under way.", labels=[*_LABELS, "host"]
        )
        for replica in self._replicas.all():
            labels = [replica.version.model, str(replica.version.number), replica.host]
            pending.add_metric(labels, replica.load.pending)
        yield pending


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
