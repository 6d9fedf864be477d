"""What crosses the gateway, on the wire: datatypes, sizes, deadlines, streams, what it says of
itself."""

import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import psutil
import pytest
import tritonclient.grpc as triton
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from modelyard.errors import DeadlineExceeded
from modelyard.inference.v2 import open_inference_pb2 as pb
from tests.kit import graphs
from tests.kit.gateway import WAYS, flags_of
from tests.kit.yard import Yard, eventually, running_yard

INFER = "/inference.GRPCInferenceService/ModelInfer"
ONE = np.ones(1, np.float32)
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture(scope="module", params=WAYS)
def yard(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Yard]:
    folder: Path = tmp_path_factory.mktemp("wire")

    def saved(name: str, model: onnx.ModelProto) -> Path:
        path = folder / f"{name}.onnx"
        onnx.save(model, path)
        return path

    front, lane = request.param
    with running_yard(folder / "yard", *flags_of(front), lane=lane) as yard:
        for datatype in ("FP32", "FP16", "BYTES"):
            name = f"id-{datatype.lower()}"
            yard.client.register(name, saved(name, graphs.identity(datatype)), wait=True)
        yard.client.register("slow", saved("slow", graphs.loop()), wait=True)
        yield yard


@pytest.mark.parametrize(
    ("model", "array"),
    [
        ("id-fp16", np.array([1.5, -2.25, np.inf], np.float16)),
        ("id-bytes", np.array([b"", b"\x00a", "grüße".encode()], object)),
    ],
)
def test_a_datatype(yard: Yard, model: str, array: np.ndarray) -> None:
    (got,) = yard.client.infer(model, {"x": array}).values()
    assert got.tolist() == array.tolist()


def test_a_message_of_100_mb(yard: Yard) -> None:
    array = np.arange(25 << 20, dtype=np.float32)
    with triton_client(yard) as client:
        tensor = triton.InferInput("x", [array.size], "FP32").set_data_from_numpy(array)
        got = client.infer("id-fp32", [tensor], client_timeout=60).as_numpy("y")
    assert got is not None
    assert got.tobytes() == array.tobytes()


def test_the_timeout_parameter_is_a_deadline(yard: Yard) -> None:
    with triton_client(yard) as client, pytest.raises(InferenceServerException) as caught:
        client.infer("slow", endless(), timeout=50_000)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_a_deadline_of_the_client(yard: Yard) -> None:
    with pytest.raises(DeadlineExceeded):
        yard.client.infer("slow", {"rounds": np.int64(1 << 40), "x": ONE}, deadline=0.05)


def test_a_call_that_is_given_up_stops_at_its_host(yard: Yard) -> None:
    (pid,) = (host.pid for host in yard.client.hosts("slow"))
    host = psutil.Process(pid)

    def computed() -> float:
        times = host.cpu_times()
        return float(times.user + times.system)

    def idle() -> bool:
        before = computed()
        time.sleep(0.3)
        return computed() - before < 0.1

    request = pb.ModelInferRequest(model_name="slow")
    request.inputs.add(name="rounds", datatype="INT64", shape=[])
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    request.raw_input_contents.extend([np.int64(1 << 40).tobytes(), ONE.tobytes()])
    with grpc.insecure_channel(yard.address) as channel:
        infer = channel.unary_unary(INFER)
        before = computed()
        calls = [infer.future(request.SerializeToString(), timeout=300) for _ in range(6)]
        eventually(lambda: computed() - before > 0.3)
        for call in calls:
            call.cancel()
        eventually(lambda: all(r.pending == 0 for r in yard.client.status().replicas))
        eventually(idle)


@pytest.mark.parametrize("strict", [False, True])
def test_a_stream_and_an_error_in_it(yard: Yard, strict: bool) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    array = np.ones(3, np.float32)
    good = [triton.InferInput("x", [3], "FP32").set_data_from_numpy(array)]
    bad = [triton.InferInput("nope", [3], "FP32").set_data_from_numpy(array)]
    headers = {"triton_grpc_error": "true"} if strict else None
    with triton_client(yard) as client:
        client.start_stream(lambda result, error: answers.put((result, error)), headers=headers)
        for inputs in (good, bad, good):
            client.async_stream_infer("id-fp32", inputs)
        first, second = answers.get(timeout=30), answers.get(timeout=30)
        assert first[1] is None
        assert isinstance(second[1], InferenceServerException)
        if strict:
            # The status ends the stream: nothing comes after it.
            assert second[1].status() == "StatusCode.INVALID_ARGUMENT"
        else:
            assert answers.get(timeout=30)[1] is None
        client.stop_stream(cancel_requests=strict)


def test_a_sequence_in_a_stream_keeps_its_order(yard: Yard) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    x = np.ones(3, np.float32)
    inputs = [triton.InferInput("x", [3], "FP32").set_data_from_numpy(x)]
    with triton_client(yard) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for index in range(20):
            client.async_stream_infer(
                "id-fp32",
                inputs,
                request_id=str(index),
                sequence_id=42,
                sequence_start=index == 0,
                sequence_end=index == 19,
            )
        got = [answers.get(timeout=30) for _ in range(20)]
        client.stop_stream()
    assert [error for _, error in got] == [None] * 20
    assert [result.get_response().id for result, _ in got] == [str(i) for i in range(20)]


def test_health_and_channelz(yard: Yard) -> None:
    with grpc.insecure_channel(yard.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService", "modelyard.registry.v1.RouteService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        servers = channelz_pb2_grpc.ChannelzStub(channel).GetServers(
            channelz_pb2.GetServersRequest(), timeout=10
        )
        assert servers.server[0].data.calls_started > 0


def test_what_an_answer_says_of_itself(yard: Yard) -> None:
    answer = yard.client.infer("id-fp32", {"x": np.ones(1, np.float32)}, request_id="mine")
    assert str(answer.served_by) == "models/id-fp32/versions/1"
    assert (answer.attempt, answer.request_id) == ("primary", "mine")


def endless() -> list[Any]:
    rounds = triton.InferInput("rounds", [], "INT64")
    x = triton.InferInput("x", [1], "FP32")
    return [
        rounds.set_data_from_numpy(np.array(1 << 40, np.int64)),
        x.set_data_from_numpy(ONE),
    ]


def triton_client(yard: Yard) -> Any:
    return triton.InferenceServerClient(yard.address, channel_args=OPTIONS)
