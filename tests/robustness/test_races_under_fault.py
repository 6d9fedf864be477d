"""A version that hangs, crashes or errs, under load: another, or a constant, answers in time."""

import os
import signal
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from prometheus_client.parser import text_string_to_metric_families

from modelyard.cli.route_yaml import parse
from modelyard.errors import DeadlineExceeded, Internal, ModelyardError, Overloaded
from tests.kit.scale import scale
from tests.kit.traffic import Traffic, X
from tests.kit.yard import LANES, Yard, eventually, running_yard

MODEL = "scale"
GOOD, BETTER, FAULTY = 1, 2, 3


def faulty(folder: Path) -> Path:
    """Loads, and fails at every run."""
    shape = numpy_helper.from_array(np.array([7], np.int64), "shape")
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["X", "shape"], ["Y"])],
        "faulty",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["M"])],
        [shape],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "faulty.onnx")
    return folder / "faulty.onnx"


@pytest.fixture(scope="module", params=LANES)
def yard(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Yard]:
    folder = tmp_path_factory.mktemp("races")
    with running_yard(folder / "yard", "--replicas", "2", lane=request.param) as yard:
        yard.client.register(MODEL, scale(folder, 2.0), wait=True)
        yard.client.register(MODEL, scale(folder, 3.0), label="better", wait=True)
        yard.client.register(MODEL, faulty(folder), label="faulty", wait=True)
        yield yard


@pytest.fixture(autouse=True)
def default_route(yard: Yard) -> Iterator[None]:
    yield
    yard.client.remove_route(MODEL)
    eventually(lambda: len(pids(yard, BETTER)) == 2, patience=90)


def pids(yard: Yard, number: int) -> list[int]:
    hosts = yard.client.hosts(MODEL)
    return [h.pid for h in hosts if h.version.endswith(f"/{number}") and h.state == 3 and h.pid]


def told(number: signal.Signals) -> Callable[[int], None]:
    def tell(pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    return tell


@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL])
def test_all_hosts_of_a_version_at_once(yard: Yard, fault: signal.Signals) -> None:
    eventually(lambda: len(pids(yard, BETTER)) == 2)
    yard.client.replace_route(MODEL, parse("default: {label: better}\nfallback: [{label: live}]"))
    with Traffic(yard.address, MODEL, deadline=4.0) as traffic:
        eventually(lambda: any(a.version == BETTER for a in traffic.answers[-20:]))
        victims = pids(yard, BETTER)
        for pid in victims:
            told(fault)(pid)
        traffic.wait_for(100)
        # Its supervisor sees to it that the version comes back, and calls go there again.
        eventually(lambda: len(pids(yard, BETTER)) == 2, patience=90)
        eventually(lambda: any(a.version == BETTER for a in traffic.answers[-20:]))
    for pid in victims:
        told(signal.SIGCONT)(pid)
    assert traffic.failures == []
    served = Counter((answer.version, answer.attempt) for answer in traffic.answers)
    assert served[GOOD, "fallback"] > 0
    assert served[BETTER, "primary"] > 0


def test_a_version_that_errs_falls_back_and_is_soon_left_alone(yard: Yard) -> None:
    # Alone, it tells of its fault, and of nothing inside.
    with pytest.raises(Internal):
        yard.client.infer(MODEL, {"X": X}, version="faulty")
    yard.client.replace_route(MODEL, parse("default: {label: faulty}\nfallback: [{label: live}]"))
    with Traffic(yard.address, MODEL, deadline=4.0) as traffic:
        traffic.wait_for(300)
    assert traffic.failures == []
    assert {(a.version, a.attempt) for a in traffic.answers} == {(GOOD, "fallback")}
    plan = yard.client.explain(MODEL)
    assert "its circuit is open" in plan.attempts[0].when


def test_a_constant_is_the_last_resort(yard: Yard) -> None:
    text = "default: {label: faulty}\nfallback: [{default: {Y: [0, 0, 0, 0, 0, 0, 0]}}]"
    yard.client.replace_route(MODEL, parse(text))
    with pytest.raises(ModelyardError):  # Its Y has seven elements.
        yard.client.replace_route(MODEL, parse(text.replace("[0, 0, 0, 0, 0, 0, 0]", "[0, 0]")))
    with Traffic(yard.address, MODEL, deadline=4.0) as traffic:
        traffic.wait_for(100)
    assert traffic.failures == []
    assert {(a.version, a.attempt) for a in traffic.answers} == {(0, "default")}


def test_no_storm_while_every_replica_fails(yard: Yard) -> None:
    """Without another way each call fails; the hosts get no more than the budget on top."""
    yard.client.replace_route(MODEL, parse("default: {label: faulty}\nretry: {max_attempts: 5}"))

    def begun() -> int:
        traffic = next(iter(yard.client.traffic(0.2)))
        return sum(counted.started for row in traffic.traffic for counted in row.attempts)

    with Traffic(yard.address, MODEL, deadline=4.0) as traffic:
        while len(traffic.failures) < 300:
            begun()
    assert all(isinstance(e, Internal | Overloaded | DeadlineExceeded) for e in traffic.failures)
    metrics = counters(yard)
    # INTERNAL is not retried at all; only lost connections are, within the budget.
    assert metrics.get(("3", "retry"), 0) == 0


def counters(yard: Yard) -> dict[tuple[str, str], float]:
    """Attempts that were started, by version and kind."""
    page = urllib.request.urlopen(f"http://{yard.metrics}/metrics").read().decode()
    return {
        (s.labels["version"], s.labels["kind"]): s.value
        for family in text_string_to_metric_families(page)
        for s in family.samples
        if s.name == "modelyard_attempts_total" and s.labels["event"] == "started"
    }
