"""A yard under load: whatever is killed or moved, no call fails that had a way to succeed."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from modelyard.client import Client
from modelyard.errors import Unavailable
from modelyard.gateway.v1 import gateway_service_pb2 as gateway_pb2
from modelyard.registry.v1 import host_pb2
from tests.kit import graphs
from tests.kit.scale import scale
from tests.kit.traffic import Traffic
from tests.kit.yard import LANES, Yard, running_yard

MODEL = "scale"
SERVING = host_pb2.Host.STATE_SERVING
# The first version becomes live; the second is moved to in the last test only.
LIVE = 1


def wait_until(condition: Callable[[], object], timeout: float = 60.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "not so in time"
        time.sleep(0.05)


@pytest.fixture(scope="module", params=LANES)
def yard(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Yard]:
    folder = tmp_path_factory.mktemp("load")
    with running_yard(folder / "yard", "--replicas", "2", lane=request.param) as yard:
        yard.client.register(MODEL, scale(folder, 2.0), wait=True)
        yard.client.register(MODEL, scale(folder, 3.0))
        yield yard


def hosts_of(yard: Yard, number: int) -> list[int]:
    """The processes that serve a version."""
    found = []
    for process in yard.processes():
        try:
            line = process.cmdline()
        except psutil.NoSuchProcess:  # it ended between the two looks
            continue
        if "services.inference.host" in line and line[line.index("--version") + 1] == str(number):
            found.append(process.pid)
    return found


def is_up(yard: Yard) -> bool:
    try:
        return yard.client.ready()
    except Unavailable:
        return False


def serving(yard: Yard, number: int) -> int:
    """How many hosts serve a version; none as far as one can tell while the registry is away."""
    try:
        hosts = yard.client.hosts(MODEL)
    except Unavailable:
        return 0
    return sum(h.state == SERVING and h.version.endswith(f"/{number}") for h in hosts)


def test_a_killed_host_costs_no_call(yard: Yard) -> None:
    wait_until(lambda: serving(yard, LIVE) == 2)
    with Traffic(yard.address, MODEL) as traffic:
        traffic.wait_for(100)
        for _ in range(3):
            victim = hosts_of(yard, LIVE)[0]
            next(p for p in yard.processes() if p.pid == victim).kill()
            wait_until(lambda gone=victim: gone not in hosts_of(yard, LIVE))
            wait_until(lambda: serving(yard, LIVE) == 2)
            traffic.wait_for(50)
    assert traffic.failures == []


def test_a_host_that_is_told_to_end_costs_no_call(yard: Yard) -> None:
    wait_until(lambda: serving(yard, LIVE) == 2)
    with Traffic(yard.address, MODEL) as traffic:
        traffic.wait_for(50)
        for _ in range(3):
            leaving = hosts_of(yard, LIVE)[0]
            next(p for p in yard.processes() if p.pid == leaving).terminate()
            wait_until(lambda gone=leaving: gone not in hosts_of(yard, LIVE))
            wait_until(lambda: serving(yard, LIVE) == 2)
            traffic.wait_for(50)
    assert traffic.failures == []


def test_a_host_killed_in_the_middle_of_calls_costs_none(yard: Yard) -> None:
    folder = yard.layout.data
    onnx.save(graphs.loop(), folder / "loop.onnx")
    yard.client.register("loop", folder / "loop.onnx", wait=True)
    # Some 20 ms each on one thread, while the machine does nothing else.
    inputs = {"rounds": np.int64(20_000), "x": np.ones(1, np.float32)}

    def serving_hosts() -> list[host_pb2.Host]:
        return [h for h in yard.client.hosts("loop") if h.state == SERVING]

    wait_until(lambda: len(serving_hosts()) == 2)
    with Traffic(yard.address, "loop", threads=8, inputs=inputs, pause=0.0) as traffic:
        traffic.wait_for(20)
        for _ in range(3):
            busy = next(
                host
                for replica in iter_replicas(yard, "loop")
                for host in serving_hosts()
                if replica.host == host.id and replica.pending
            )
            psutil.Process(busy.pid).kill()
            wait_until(lambda gone=busy.pid: gone not in [h.pid for h in serving_hosts()])
            wait_until(lambda: len(serving_hosts()) == 2)
            traffic.wait_for(20)
    assert traffic.failures == []
    yard.client.remove_label("loop", "live")


def iter_replicas(yard: Yard, model: str) -> Iterator[gateway_pb2.Replica]:
    """The gateway's replicas of a model, again and again."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for replica in yard.client.status().replicas:
            if replica.version.startswith(f"models/{model}/"):
                yield replica


def test_hosts_whose_sockets_are_out_of_reach_are_asked_by_grpc(yard: Yard) -> None:
    (lane,) = yard.lanes()
    wait_until(lambda: serving(yard, LIVE) == 2)
    sockets = list(yard.layout.run.rglob("*.f.sock"))
    assert len(sockets) >= 2
    for socket in sockets:
        socket.rename(socket.with_suffix(".away"))
    try:
        with Traffic(yard.address, MODEL) as traffic:
            # What is connected stays so.
            traffic.wait_for(50)
            assert yard.lanes() == {lane}
        assert traffic.failures == []
        before = yard.room("gateway")
        before.terminate()
        wait_until(lambda: not before.is_running())
        wait_until(lambda: is_up(yard))
        with Traffic(yard.address, MODEL) as traffic:
            traffic.wait_for(50)
            assert yard.lanes() == {"grpc"}
            for socket in sockets:
                socket.with_suffix(".away").rename(socket)
            wait_until(lambda: yard.lanes() == {lane})
            traffic.wait_for(50)
        assert traffic.failures == []
    finally:
        for socket in sockets:
            if (away := socket.with_suffix(".away")).exists():
                away.rename(socket)


def test_a_gateway_that_is_told_to_end_answers_what_it_has_begun(yard: Yard) -> None:
    folder = yard.layout.data
    onnx.save(graphs.loop(), folder / "slow.onnx")
    yard.client.register("slow", folder / "slow.onnx", wait=True)
    # Some half a second each on one thread, while the machine does nothing else.
    inputs = {"rounds": np.int64(500_000), "x": np.ones(1, np.float32)}
    with ThreadPoolExecutor(4) as callers, Client(yard.address) as client:
        under_way = [callers.submit(client.infer, "slow", inputs, deadline=60.0) for _ in range(4)]
        wait_until(lambda: sum(r.pending for r in client.status().replicas) == 4)
        before = yard.room("gateway")
        before.terminate()
        assert [str(f.result().served_by) for f in under_way] == ["models/slow/versions/1"] * 4
    wait_until(lambda: not before.is_running())
    wait_until(lambda: is_up(yard))
    yard.client.remove_label("slow", "live")


@pytest.mark.parametrize(
    ("room", "number"),
    [
        ("registry", signal.SIGKILL),
        ("registry", signal.SIGTERM),
        ("redis", signal.SIGKILL),
        ("redis", signal.SIGTERM),
        # SIGTERM tells a supervisor to drain its hosts: that ends calls by design.
        ("inference", signal.SIGKILL),
    ],
)
def test_a_lost_room_costs_no_call(yard: Yard, room: str, number: signal.Signals) -> None:
    wait_until(lambda: serving(yard, LIVE) == 2)
    with Traffic(yard.address, MODEL) as traffic:
        traffic.wait_for(50)
        before = yard.room(room)
        before.send_signal(number)
        traffic.wait_for(200)

        def is_back() -> bool:
            try:
                return yard.room(room).pid != before.pid
            except LookupError:
                return False

        wait_until(is_back)
        wait_until(lambda: serving(yard, LIVE) == 2)
        traffic.wait_for(50)
    assert traffic.failures == []


def test_two_hundred_moves_under_load(yard: Yard, tmp_path: Path) -> None:
    client = yard.client
    wait_until(lambda: serving(yard, LIVE) == 2)
    client.label(MODEL, "live", 2)
    wait_until(lambda: serving(yard, 1) == 2 and serving(yard, 2) == 2)
    # (when the move was asked for, when it was acknowledged, the version)
    moves = [(0.0, time.monotonic(), 2)]
    with Traffic(yard.address, MODEL) as traffic:
        traffic.wait_for(20)
        for index in range(200):
            number = 1 + index % 2
            asked = time.monotonic()
            client.label(MODEL, "live", number)
            moves.append((asked, time.monotonic(), number))
        traffic.wait_for(20)
    assert traffic.failures == []
    # A version is live from when its move was asked for until the next one is acknowledged.
    spans = [
        (moves[i][0], moves[i + 1][1] if i + 1 < len(moves) else float("inf"), moves[i][2])
        for i in range(len(moves))
    ]
    for answer in traffic.answers:
        assert any(
            number == answer.version and answer.began <= end and begin <= answer.ended
            for begin, end, number in spans
        ), answer
