"""What Prometheus reads of the supervisor: taken from its state when it is read."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.inference.lifecycle import Phase


class Counted(Protocol):
    """What is counted."""

    restarts: int

    def counts(self) -> Mapping[Phase, int]:
        """How many hosts are in each phase."""


class HostsCollector(Collector):
    """`modelyard_hosts{phase}` and `modelyard_host_restarts_total`."""

    def __init__(self, supervisor: Counted) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        hosts = GaugeMetricFamily("modelyard_hosts", "Hosts by phase.", labels=["phase"])
        for phase, count in self._supervisor.counts().items():
            hosts.add_metric([phase.value], count)
        yield hosts
        yield CounterMetricFamily(
            "modelyard_host_restarts",
            "How often a host was started again after a failure.",
            value=self._supervisor.restarts,
        )
