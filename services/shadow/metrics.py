"""What Prometheus reads of the shadow service: taken from its evaluations when it is read."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from modelyard.shadow.v1 import evaluation_pb2
from services.shadow.manager import Manager
from services.shadow.verdict import Verdict

_RUNNING = evaluation_pb2.Evaluation.STATE_RUNNING


class EvaluationsCollector(Collector):
    """Evaluations that run: what became of their requests, and what is said of candidates."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        requests = CounterMetricFamily(
            "modelyard_shadow_requests",
            "Requests of running evaluations by outcome.",
            labels=["evaluation", "outcome"],
        )
        verdicts = GaugeMetricFamily(
            "modelyard_shadow_verdict",
            "1 for what is said of a candidate now.",
            labels=["evaluation", "version", "verdict"],
        )
        for evaluation in self._manager.evaluations:
            found = self._manager.findings(evaluation.name)
            if evaluation.state != _RUNNING or found is None:
                continue
            tally = found.tally
            for outcome in ("replayed", "passed_over", "unpaired", "labelled", "unmatched"):
                requests.add_metric([evaluation.name, outcome], getattr(tally, outcome))
            for number, judgement in found.judgements.items():
                for verdict in Verdict:
                    labels = [evaluation.name, str(number), verdict.value]
                    verdicts.add_metric(labels, float(judgement.verdict is verdict))
        yield requests
        yield verdicts
