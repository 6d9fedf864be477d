"""What Prometheus reads of several models in one process."""

from collections.abc import Iterator, Sequence

from prometheus_client.core import Metric
from prometheus_client.registry import Collector


class Together(Collector):
    """Several collectors of the same metrics as one: each metric is told once, with all samples."""

    def __init__(self, collectors: Sequence[Collector]) -> None:
        self._collectors = tuple(collectors)

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        metrics: dict[str, Metric] = {}
        for collector in self._collectors:
            for metric in collector.collect():
                known = metrics.setdefault(metric.name, metric)
                if known is not metric:
                    known.samples.extend(metric.samples)
        yield from metrics.values()
