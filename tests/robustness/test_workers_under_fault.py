"""Several gateway processes behind one port, under load: what is killed or moved costs no call."""

import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelyard.client import Client
from modelyard.errors import DeadlineExceeded, SequenceLost, Unavailable
from tests.kit import graphs
from tests.kit.gateway import only_envoy
from tests.kit.scale import scale
from tests.kit.traffic import Traffic, X
from tests.kit.yard import Yard, eventually, running_yard

MODEL = "scale"
WORKERS = 2
pytestmark = [only_envoy, pytest.mark.campaign]


@pytest.fixture(scope="module", params=["envoy", "grpcio", "http2"])
def yard(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Yard]:
    folder = tmp_path_factory.mktemp("workers")
    flags = ("--replicas", "2", "--workers", str(WORKERS), "--front", request.param)
    with running_yard(folder / "yard", *flags) as yard:
        yard.client.register(MODEL, scale(folder, 2.0), wait=True)
        yard.client.register(MODEL, scale(folder, 3.0), label="canary", wait=True)
        yield yard


def workers(yard: Yard) -> dict[int, int]:
    """The process of each worker, by its index."""
    try:
        return {worker.index: worker.pid for worker in yard.client.status().workers}
    except (DeadlineExceeded, Unavailable):  # the one that was asked hangs, or is gone
        return {}


def process(yard: Yard, index: int) -> int:
    """That of one worker, once it tells of itself: one that is busy is left out of what is told."""
    return int(eventually(lambda: workers(yard).get(index), 60.0))


def all_serve(yard: Yard) -> bool:
    return len(workers(yard)) == WORKERS


def counted(yard: Yard, **labels: str) -> float:
    """What `modelyard_calls_total` counts."""
    with urllib.request.urlopen(f"http://{yard.metrics}/metrics", timeout=20) as response:
        text = response.read().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "modelyard_calls_total" and labels.items() <= sample.labels.items()
    )


def test_calls_not_connections_are_spread_and_counted_as_one(yard: Yard) -> None:
    eventually(lambda: all_serve(yard))
    client, before = yard.client, counted(yard, model=MODEL)
    answers = [client.infer(MODEL, {"X": X}, deadline=20.0) for _ in range(40)]
    # Each process has a prefix of its own for the ids that it makes.
    assert len({answer.request_id.partition("-")[0] for answer in answers}) == WORKERS
    assert counted(yard, model=MODEL) == before + 40
    assert counted(yard, model=MODEL, outcome="success") >= 40
    looks = client.traffic(0.5)
    with Traffic(yard.address, MODEL) as traffic:
        for look in looks:
            if any(row.succeeded > 20 and row.latency_p50.ToTimedelta() for row in look.traffic):
                break
    assert traffic.failures == []
    curves = {c.version: c.answered for c in client.curves(MODEL).curves}
    assert curves[f"models/{MODEL}/versions/1"] >= 40 + len(traffic.answers)


def test_a_killed_worker_costs_no_call_and_no_count(
    yard: Yard, request: pytest.FixtureRequest
) -> None:
    eventually(lambda: all_serve(yard))
    # Envoy takes SIGTERM as an end; of the process that is a gateway and no more it is a drain.
    inside = request.node.callspec.params["yard"] == "envoy"
    told = signal.SIGKILL if inside else signal.SIGTERM
    client = yard.client
    with Traffic(yard.address, MODEL, threads=8, pause=0.0) as traffic:
        traffic.wait_for(100)
        low = counted(yard)
        for index, number in ((0, signal.SIGKILL), (1, signal.SIGKILL), (0, told)):
            pid = process(yard, index)
            os.kill(pid, number)
            traffic.wait_for(100)
            eventually(lambda gone=pid, i=index: workers(yard).get(i) not in (gone, None), 60.0)
            now = counted(yard)
            assert now >= low
            low = now
    assert traffic.failures == []
    assert {r.version for r in client.status().replicas} >= {f"models/{MODEL}/versions/1"}


def test_a_worker_killed_in_the_middle_of_calls_costs_none(yard: Yard) -> None:
    eventually(lambda: all_serve(yard))
    folder = yard.layout.data
    onnx.save(graphs.loop(), folder / "loop.onnx")
    yard.client.register("loop", folder / "loop.onnx", wait=True)
    # Some 20 ms each on one thread, while the machine does nothing else.
    inputs = {"rounds": np.int64(20_000), "x": np.ones(1, np.float32)}
    with Traffic(yard.address, "loop", threads=8, inputs=inputs, pause=0.0) as traffic:
        traffic.wait_for(20)
        for index in (0, 1):
            pid = process(yard, index)
            os.kill(pid, signal.SIGKILL)
            traffic.wait_for(20)
            eventually(lambda gone=pid, i=index: workers(yard).get(i) not in (gone, None), 60.0)
    assert traffic.failures == []
    yard.client.remove_label("loop", "live")


def test_large_requests_are_made_again_too(yard: Yard) -> None:
    eventually(lambda: all_serve(yard), 60.0)
    folder = yard.layout.data
    onnx.save(graphs.mean(), folder / "mean.onnx")
    yard.client.register("mean", folder / "mean.onnx", wait=True)
    inputs = {"x": np.ones(1 << 20, np.float32)}
    with Traffic(yard.address, "mean", threads=4, inputs=inputs, pause=0.0) as traffic:
        traffic.wait_for(20)
        for index in (0, 1, 0):
            pid = process(yard, index)
            os.kill(pid, signal.SIGKILL)
            traffic.wait_for(20)
            eventually(lambda gone=pid, i=index: workers(yard).get(i) not in (gone, None), 60.0)
    assert traffic.failures == []
    yard.client.remove_label("mean", "live")


def test_a_worker_that_hangs_costs_no_call(yard: Yard) -> None:
    eventually(lambda: all_serve(yard), 60.0)
    # Callers wait for longer than it takes to find it.
    with Traffic(yard.address, MODEL, threads=8, pause=0.0, deadline=60.0) as traffic:
        traffic.wait_for(100)
        # The second as soon as it tells of itself: its parent may not have heard that it serves.
        for _ in range(2):
            pid = process(yard, 1)
            os.kill(pid, signal.SIGSTOP)
            eventually(lambda gone=pid: workers(yard).get(1) not in (gone, None), 90.0)
        traffic.wait_for(100)
    assert traffic.failures == []


def test_fifty_moves_under_load(yard: Yard) -> None:
    eventually(lambda: all_serve(yard))
    client = yard.client
    # (when the move was asked for, when it was acknowledged, the version)
    client.label(MODEL, "live", 2)
    moves = [(0.0, time.monotonic(), 2)]
    with Traffic(yard.address, MODEL) as traffic:
        traffic.wait_for(20)
        for index in range(50):
            number = 1 + index % 2
            asked = time.monotonic()
            client.label(MODEL, "live", number)
            moves.append((asked, time.monotonic(), number))
        traffic.wait_for(20)
    assert traffic.failures == []
    ends = [acknowledged for _, acknowledged, _ in moves[1:]] + [float("inf")]
    spans = [(asked, end, n) for (asked, _, n), end in zip(moves, ends, strict=True)]
    for answer in traffic.answers:
        assert any(
            number == answer.version and answer.began <= end and begin <= answer.ended
            for begin, end, number in spans
        ), answer
    client.label(MODEL, "live", 1)


def test_after_a_change_every_worker_has_it(yard: Yard) -> None:
    eventually(lambda: all_serve(yard))
    client = yard.client
    for number in (2, 1) * 5:
        client.label(MODEL, "canary", number)
        status = client.status()
        assert {worker.revision for worker in status.workers} == {status.revision}
        got = {
            client.infer(MODEL, {"X": X}, version="canary", deadline=20.0).version for _ in range(8)
        }
        assert got == {number}
    client.label(MODEL, "canary", 2)


def test_sequences_live_in_one_worker(yard: Yard) -> None:
    eventually(lambda: all_serve(yard))
    client = yard.client

    def call(number: int, **parameters: Any) -> int:
        parameters["sequence_id"] = number
        answer = client.infer(MODEL, {"X": X}, deadline=20.0, parameters=parameters)
        assert answer.attempt == "primary"
        return int(answer.version)

    numbers = range(1, 21)
    with pytest.raises(SequenceLost):
        call(5)
    for number in numbers:
        assert call(number, sequence_start=True) == 1
    client.label(MODEL, "live", 2)
    try:
        with ThreadPoolExecutor(4) as callers:
            # Whichever worker takes a call, its sequence stays where it began.
            assert set(callers.map(call, [n for n in numbers for _ in range(5)])) == {1}
        os.kill(process(yard, 0), signal.SIGKILL)
        lost = 0
        for number in numbers:
            try:
                assert call(number) == 1
            except SequenceLost:
                lost += 1
        # What lived in the one is lost, and nothing else; and all can begin anew.
        assert 0 < lost < len(numbers)
        eventually(lambda: all_serve(yard), 60.0)
        assert {call(number, sequence_start=True) for number in numbers} == {2}
        assert {call(number, sequence_end=True) for number in numbers} == {2}
        with pytest.raises(SequenceLost):
            call(5)
    finally:
        client.label(MODEL, "live", 1)


def test_a_sequence_is_never_computed_twice(yard: Yard) -> None:
    eventually(lambda: all_serve(yard), 60.0)
    client, folder = yard.client, yard.layout.data
    onnx.save(graphs.loop(), folder / "steps.onnx")
    client.register("steps", folder / "steps.onnx", wait=True)

    def call(number: int, rounds: int, **parameters: Any) -> str:
        parameters["sequence_id"] = number
        inputs = {"rounds": np.int64(rounds), "x": np.ones(1, np.float32)}
        try:
            client.infer("steps", inputs, deadline=60.0, parameters=parameters)
        except SequenceLost as error:
            return error.message
        return ""

    numbers, killed = range(1, 33), threading.Event()

    def call_until(number: int) -> str:
        """What the call told that was under way at the kill; as long as none is lost, the next."""
        while True:
            is_last = killed.is_set()
            message = call(number, 20_000)
            if message or is_last:
                return message
            answered[number] += 1

    assert {call(number, 1, sequence_start=True) for number in numbers} == {""}
    answered = dict.fromkeys(numbers, 0)
    with ThreadPoolExecutor(len(numbers)) as callers:
        # Each has one call under way, all the time.
        asked = [callers.submit(call_until, number) for number in numbers]
        try:
            eventually(lambda: all(answered.values()), 60.0)
            os.kill(process(yard, 0), signal.SIGKILL)
        finally:
            killed.set()
        ended = [future.result() for future in asked]
    # Those that came in by the other one and live there, or not: the caller knows which.
    assert "" in ended
    assert any("was under way when its process ended" in message for message in ended)
    assert any("lived in a process that is gone" in message for message in ended)
    eventually(lambda: all_serve(yard), 60.0)
    client.remove_label("steps", "live")


def test_no_caller_reaches_what_is_between_the_processes(yard: Yard) -> None:
    with grpc.insecure_channel(yard.address) as channel:
        path = "/modelyard.gateway.v1.WorkerService/GetFigures"
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(path)(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("victim", ["parent", "the port's Envoy"])
def test_nothing_outlives_the_parent_or_the_port(yard: Yard, victim: str) -> None:
    eventually(lambda: all_serve(yard), 60.0)
    parent = yard.room("gateway")
    family = [parent, *parent.children(recursive=True)]
    assert len(family) > 1 + WORKERS
    served = {process(yard, index) for index in range(WORKERS)}
    (port,) = [
        p for p in family if str(WORKERS) in p.cmdline() and p.pid not in served | {parent.pid}
    ]
    (parent if victim == "parent" else port).kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    # It is started again, with all that belongs to it.
    eventually(lambda: all_serve(yard), 60.0)
    with Client(yard.address) as client:
        assert client.infer(MODEL, {"X": X}, deadline=20.0).version == 1


def test_a_gateway_that_is_told_to_end_answers_what_it_has_begun(yard: Yard) -> None:
    folder: Path = yard.layout.data
    onnx.save(graphs.loop(), folder / "slow.onnx")
    yard.client.register("slow", folder / "slow.onnx", wait=True)
    # Some a second each on one thread, while the machine does nothing else.
    inputs = {"rounds": np.int64(1_000_000), "x": np.ones(1, np.float32)}
    with ThreadPoolExecutor(4) as callers, Client(yard.address) as client:
        under_way = [callers.submit(client.infer, "slow", inputs, deadline=60.0) for _ in range(4)]
        eventually(
            lambda: (
                any(f.done() and f.result() for f in under_way)
                or sum(r.pending for r in client.status().replicas) == 4
            )
        )
        assert not any(f.done() for f in under_way)
        before = yard.room("gateway")
        before.terminate()
        assert [str(f.result().served_by) for f in under_way] == ["models/slow/versions/1"] * 4
    eventually(lambda: not before.is_running(), 60.0)
    eventually(lambda: all_serve(yard), 60.0)
    yard.client.remove_label("slow", "live")
