"""What Prometheus reads of the archive's writer: taken from its collectors when it is read."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector as PrometheusCollector

from services.archive.collector import Collector

_COUNTERS = {
    "rows": "Rows that are in the archive.",
    "written": "Bytes of files.",
    "spoilt": "Entries of the log that were no events.",
    "missing": "Payloads that were gone before they could be archived.",
}


class ArchiveCollector(PrometheusCollector):
    """What became of each model's events."""

    def __init__(self, collectors: Callable[[], Mapping[str, Collector]]) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        held = dict(self._collectors())
        for name, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"modelyard_archive_{name}", text, labels=["model"])
            for model, collector in held.items():
                counter.add_metric([model], getattr(collector.counts, name))
            yield counter
        lost = CounterMetricFamily(
            "modelyard_archive_lost", "Events dropped before they were read.", labels=["model"]
        )
        twice = CounterMetricFamily(
            "modelyard_archive_duplicates", "Events that were there twice.", labels=["model"]
        )
        waiting = GaugeMetricFamily(
            "modelyard_archive_waiting", "Rows that are not written yet.", labels=["model"]
        )
        for model, collector in held.items():
            lost.add_metric([model], collector.progress.lost)
            twice.add_metric([model], collector.progress.duplicates)
            waiting.add_metric([model], collector.counts.waiting)
        yield from (lost, twice, waiting)
