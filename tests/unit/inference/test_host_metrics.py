"""What Prometheus reads of a host."""

from prometheus_client import CollectorRegistry

from modelyard.errors import DeadlineExceeded, InvalidTensor
from modelyard.names import VersionName
from services.inference.host.metrics import StatisticsCollector
from services.inference.host.statistics import Statistics


class _Runs:
    pending = 4
    stopped = 1


def test_calls_and_stages() -> None:
    counted = Statistics()
    counted.answered(began=0, decoded=10, queued=20, ran=30, encoded=100)
    counted.failed(5, InvalidTensor("no"))
    counted.failed(5, DeadlineExceeded("late"))
    registry = CollectorRegistry()
    registry.register(StatisticsCollector(VersionName("m", 2), counted, _Runs()))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"model": "m", "version": "2", **labels})

    outcomes = [
        value("modelyard_host_calls_total", outcome=o) for o in ("success", "fail", "cancel")
    ]
    assert outcomes == [1, 1, 1]
    stages = ("queue", "compute_input", "compute_infer", "compute_output")
    seconds = [value("modelyard_host_stage_seconds_total", stage=s) for s in stages]
    assert seconds == [2e-8, 1e-8, 3e-8, 4e-8]
    assert value("modelyard_host_pending_runs") == 4
    assert value("modelyard_host_stopped_runs_total") == 1
