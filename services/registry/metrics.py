"""What Prometheus reads of the registry: taken from its state when it is read."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.registry.hosts import Leases
from services.registry.registry import Registry


class RegistryCollector(Collector):
    """The catalogue's size, its revision, and the hosts by state."""

    def __init__(self, registry: Registry, leases: Leases) -> None:
        self._registry = registry
        self._leases = leases

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        catalog = self._registry.catalog
        yield GaugeMetricFamily(
            "modelyard_registry_revision", "The newest revision.", value=catalog.revision
        )
        yield GaugeMetricFamily(
            "modelyard_registry_models", "Registered models.", value=len(catalog.models)
        )
        versions = sum(len(model.versions) for model in catalog.models.values())
        yield GaugeMetricFamily(
            "modelyard_registry_versions", "Registered versions.", value=versions
        )
        hosts = GaugeMetricFamily(
            "modelyard_registry_hosts", "Hosts whose lease holds.", labels=["state"]
        )
        for state, count in Counter(host.state.value for host in self._leases.hosts).items():
            hosts.add_metric([state], count)
        yield hosts
