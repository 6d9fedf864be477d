"""The statistics as Prometheus reads them; a call pays nothing for it, a reading adds them up."""

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from modelyard.names import VersionName
from services.inference.host.statistics import Statistics


class Runs(Protocol):
    """How many runs wait or compute, and how many were stopped so far."""

    @property
    def pending(self) -> int:
        """Those that wait or compute."""
        ...

    @property
    def stopped(self) -> int:
        """Those whose caller went away."""
        ...


class StatisticsCollector(Collector):
    """Reads the counters of one version when it is asked.

    Args:
        version: What the host serves; a label of each metric.
        counted: The counters.
        workers: Where runs wait and compute.
    """

    def __init__(self, version: VersionName, counted: Statistics, workers: Runs) -> None:
        self._labels = [version.model, str(version.number)]
        self._counted = counted
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """The metrics as they stand."""
        counted = self._counted
        calls = CounterMetricFamily(
            "modelyard_host_calls", "Calls by outcome", labels=["model", "version", "outcome"]
        )
        refused = counted.fail.count - counted.cancel.count
        for outcome, count in (
            ("success", counted.success.count),
            ("fail", refused),
            ("cancel", counted.cancel.count),
        ):
            calls.add_metric([*self._labels, outcome], count)
        yield calls
        spent = CounterMetricFamily(
            "modelyard_host_stage_seconds",
            "Time of answered calls by stage",
            labels=["model", "version", "stage"],
        )
        for stage in ("queue", "compute_input", "compute_infer", "compute_output"):
            spent.add_metric([*self._labels, stage], getattr(counted, stage).ns / 1e9)
        yield spent
        stopped = CounterMetricFamily(
            "modelyard_host_stopped_runs",
            "Runs ended early because nobody waited any more",
            labels=["model", "version"],
        )
        stopped.add_metric(self._labels, self._workers.stopped)
        yield stopped
        pending = GaugeMetricFamily(
            "modelyard_host_pending_runs",
            "Runs that wait or compute on threads",
            labels=["model", "version"],
        )
        pending.add_metric(self._labels, self._workers.pending)
        yield pending
