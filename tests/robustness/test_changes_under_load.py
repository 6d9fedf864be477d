"""Labels, routes and hosts changed under load, over every front and lane: no call fails.

`tests/contract/test_fronts.py` ends gateways under load; `test_yard_under_load.py` kills.
"""

import time
from collections.abc import Iterator

import psutil
import pytest

from modelyard.cli.route_yaml import parse
from modelyard.client import Client
from modelyard.registry.v1 import host_pb2
from tests.kit.gateway import WAYS, Gateway, flags_of, running_gateway
from tests.kit.scale import scale
from tests.kit.traffic import Traffic
from tests.kit.yard import LANES, Yard, eventually, running_yard

pytestmark = pytest.mark.campaign

MODEL = "scale"
# Live before and after each test.
LIVE = 2
MOVES = 60
ROUTES = (
    "default: {label: live}",
    "split: [{label: live, weight: 1}, {label: previous, weight: 1}]",
    "split: [{label: live, weight: 3}, {label: previous, weight: 1}]\nsticky: x-user-id",
    "default: {label: live}\nhedge: {max_extra_load: 1.0, delay: 1ms}",
    "default: {label: previous}\nfallback: [{label: live}]",
    "rendezvous: [{label: live}, {label: previous, accept_from: 5ms}]",
    "default: {version: 1}\ndeadline: 15s",
)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    folder = tmp_path_factory.mktemp("changes")
    with running_yard(folder / "yard", "--front", "grpcio", "--replicas", "2") as yard:
        yard.client.register(MODEL, scale(folder, 2.0), wait=True)
        yard.client.register(MODEL, scale(folder, 3.0))
        yard.client.label(MODEL, "live", LIVE)
        eventually(lambda: len(serving(yard)) == 4, patience=90)
        yield yard


@pytest.fixture(scope="module", params=WAYS)
def gateway(
    yard: Yard, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    front, lane = request.param
    log = tmp_path_factory.mktemp(f"{front}-{lane}") / "gateway.log"
    flags = (*flags_of(front), "--lane", LANES[lane])
    with (
        running_gateway(yard.layout.registry_socket, log, *flags) as gateway,
        Client(gateway.address) as client,
    ):
        eventually(lambda: client.ready(MODEL))
        yield gateway
        assert {replica.lane for replica in client.status().replicas} == {lane}


def serving(yard: Yard, number: int | None = None) -> set[int]:
    """The processes of the hosts that serve, all or those of one version."""
    return {
        host.pid
        for host in yard.client.hosts(MODEL)
        if host.state == host_pb2.Host.STATE_SERVING
        and (number is None or host.version.endswith(f"/{number}"))
    }


def test_labels_and_routes(gateway: Gateway) -> None:
    with Client(gateway.address) as client, Traffic(gateway.address, MODEL) as traffic:
        traffic.wait_for(20)
        # (when the move was asked for, when it was acknowledged, the version)
        moves = [(0.0, 0.0, LIVE)]
        for index in range(MOVES):
            number = 1 + index % 2
            asked = time.monotonic()
            client.label(MODEL, "live", number)
            moves.append((asked, time.monotonic(), number))
        traffic.wait_for(20)
        answers = tuple(traffic.answers)
        for text in ROUTES * 3:
            client.replace_route(MODEL, parse(text))
            traffic.wait_for(4)
        client.remove_route(MODEL)
        traffic.wait_for(20)
    assert traffic.failures == []
    # A version is live from when its move was asked for until the next one is acknowledged.
    ends = [acknowledged for _, acknowledged, _ in moves[1:]] + [float("inf")]
    for answer in answers:
        assert any(
            number == answer.version and answer.began <= end and begin <= answer.ended
            for (begin, _, number), end in zip(moves, ends, strict=True)
        ), answer


def test_a_host_that_is_told_to_end(yard: Yard, gateway: Gateway) -> None:
    with Traffic(gateway.address, MODEL) as traffic:
        traffic.wait_for(20)
        leaving = min(serving(yard, LIVE))
        psutil.Process(leaving).terminate()
        eventually(lambda: leaving not in serving(yard), patience=90)
        eventually(lambda: len(serving(yard)) == 4, patience=90)
        traffic.wait_for(50)
    assert traffic.failures == []
