"""Malformed HTTP/2, gRPC and messages at every front: a slice of `make soak-front`."""

from collections.abc import Iterator

import onnx
import pytest

from benchmarks.fuzz import front_side, requests
from benchmarks.fuzz.front_side import Found
from modelyard.client import Client
from tests.kit import graphs
from tests.kit.gateway import WAYS, Gateway, flags_of, running_gateway
from tests.kit.yard import LANES, Yard, eventually, running_yard

pytestmark = pytest.mark.campaign

CASES = 1500


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    folder = tmp_path_factory.mktemp("fire")
    with running_yard(folder / "yard", "--front", "grpcio") as yard:
        onnx.save(graphs.identity(), folder / "id.onnx")
        yard.client.register(requests.MODEL, folder / "id.onnx", wait=True)
        yield yard


# One process: of several, a keeper on a busy machine may take one for hung and start it again.
@pytest.fixture(params=[way for way in WAYS if "-2" not in str(way.id)])
def gateway(
    yard: Yard, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    front, lane = request.param
    log = tmp_path_factory.mktemp(f"{front}-{lane}") / "gateway.log"
    flags = (*flags_of(front), "--lane", LANES[lane])
    limit = ("--max-message-bytes", str(requests.LARGEST))
    with running_gateway(yard.layout.registry_socket, log, *flags, *limit) as gateway:
        gateway.front = front
        yield gateway


async def test_a_front_under_fire_serves_who_is_beside(yard: Yard, gateway: Gateway) -> None:
    found = Found()
    with Client(gateway.address) as client:
        eventually(lambda: client.ready(requests.MODEL))
        processes = [p.pid for p in gateway.processes()]
        grpcio = gateway.front == "grpcio"
        await front_side.attack(gateway.address, CASES, 7, found, text_paths=grpcio)
        assert found.faults == []
        assert found.honest > 0
        # It was reached, and in many ways.
        assert len(found.cases) > 15
        assert len(found.ends) > 4
        assert len(found.answers) > 8
        assert [p.pid for p in gateway.processes()] == processes
        # Whoever sends what is wrong makes no host look as if it were at fault.
        assert not any(r.resting for r in client.status().replicas)
        assert "circuit" not in client.explain(requests.MODEL).attempts[0].when
        eventually(lambda: not any(r.pending for r in client.status().replicas))
    gateway.terminate()
    assert gateway.process.wait(60) == 0
    logs = [gateway.log, *yard.layout.inference.rglob("*.log")]
    assert [front_side.complaints(log.read_text(errors="replace")) for log in logs] == [[], []]
