"""`modelyard serve`: gateway and models in one process, for the clients that there are.

Past 300 lines: one process serves most of it, and a second file would start another.
"""

import asyncio
import json
import signal
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import psutil
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.utils import InferenceServerException

from modelyard.client import AsyncClient, Client, Tls
from modelyard.errors import (
    DeadlineExceeded,
    HostGone,
    InvalidArgument,
    InvalidTensor,
    LabelNotFound,
    MessageTooLarge,
    ModelNotFound,
    ModelyardError,
    Unimplemented,
    VersionNotFound,
)
from tests.kit import graphs
from tests.kit.certificates import Authority
from tests.kit.collector import INFER, PARENT, TRACE, collecting, traced_call
from tests.kit.scale import scale
from tests.kit.serving import Serving, serving
from tests.kit.yard import cli, eventually

X = np.array([[1.0, 2.0]], np.float32)
ONE = np.ones(4, np.float32)
# Some 0.7 us a round.
HOURS = {"rounds": np.array(10**12), "x": ONE}
ONE_SECOND = {"rounds": np.array(10**6), "x": ONE}


def loop(folder: Path) -> Path:
    path = folder / "slow.onnx"
    onnx.save(graphs.loop(), path)
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("serve")
    scaled = scale(folder, 2.0)
    with serving(folder, f"double={scaled}", loop(folder)) as served:
        yield served


@pytest.fixture
def client(served: Serving) -> Iterator[Client]:
    with served.client() as client:
        yield client


@pytest.fixture
def nvidia(served: Serving) -> Iterator[Any]:
    client = triton.InferenceServerClient(served.address)
    yield client
    client.close()


def inputs(array: np.ndarray = X, name: str = "X", kind: Any = triton) -> list[Any]:
    return [kind.InferInput(name, list(array.shape), "FP32").set_data_from_numpy(array)]


def test_one_process_says_what_it_serves(served: Serving) -> None:
    models = {m["name"]: m for m in served.ready["models"]}
    assert list(models) == ["double", "slow"]
    assert models["double"]["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 2]}]
    assert models["double"]["version"] == 1
    assert psutil.Process(served.process.pid).children(recursive=True) == []


def test_the_sdk(client: Client) -> None:
    answer = client.infer("double", {"X": X}, request_id="mine")
    np.testing.assert_array_equal(answer["Y"], 2 * X)
    assert str(answer.served_by) == "models/double/versions/1"
    assert (answer.attempt, answer.request_id) == ("primary", "mine")
    for version in (1, "1", "live"):
        np.testing.assert_array_equal(client.infer("double", {"X": X}, version=version)["Y"], 2 * X)


def test_a_second_file_is_a_second_model(client: Client) -> None:
    answer = client.infer("slow", {"rounds": np.array(3), "x": ONE})
    np.testing.assert_array_equal(answer["y"], 8 * ONE)


def test_nvidias_client(nvidia: Any) -> None:
    assert nvidia.is_server_live()
    assert nvidia.is_server_ready()
    assert nvidia.is_model_ready("double")
    assert nvidia.is_model_ready("double", "1")
    assert not nvidia.is_model_ready("double", "2")
    assert not nvidia.is_model_ready("nope")
    assert nvidia.get_server_metadata().name == "modelyard"
    metadata = nvidia.get_model_metadata("double")
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("X", "FP32", [-1, 2])
    ]
    assert [i.name for i in nvidia.get_model_config("double").config.input] == ["X"]
    index = {(m.name, m.version): m.state for m in nvidia.get_model_repository_index().models}
    assert index == {("double", "1"): "READY", ("slow", "1"): "READY"}
    result = nvidia.infer("double", inputs(), request_id="my-id")
    np.testing.assert_array_equal(result.as_numpy("Y"), 2 * X)
    response = result.get_response()
    assert (response.model_name, response.model_version, response.id) == ("double", "1", "my-id")
    (stats,) = nvidia.get_inference_statistics("double").model_stats
    assert stats.inference_stats.success.count >= 1


async def test_nvidias_client_by_aio_and_stream(served: Serving) -> None:
    async with triton_aio.InferenceServerClient(served.address) as client:
        result = await client.infer("double", inputs(kind=triton_aio))
        np.testing.assert_array_equal(result.as_numpy("Y"), 2 * X)

        async def requests() -> Any:
            for index in range(50):
                array = np.full((1, 2), index, np.float32)
                yield {
                    "model_name": "double",
                    "inputs": inputs(array, kind=triton_aio),
                    "request_id": str(index),
                }

        got = [(r, error) async for r, error in client.stream_infer(requests())]
        assert [error for _, error in got] == [None] * 50
        assert [r.get_response().id for r, _ in got] == [str(i) for i in range(50)]
        assert [r.as_numpy("Y")[0, 0] for r, _ in got] == [2.0 * i for i in range(50)]


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"model": "nope"}, ModelNotFound, "Request for unknown model: 'nope' is not found"),
        (
            {"version": 9},
            VersionNotFound,
            "Request for unknown model: 'double' version 9 is not found",
        ),
        (
            {"version": "canary"},
            LabelNotFound,
            "Request for unknown model: 'double' version canary is not found",
        ),
        (
            {"inputs": {"Z": X}},
            InvalidTensor,
            "unexpected inference input 'Z' for model 'double'",
        ),
        (
            {"inputs": {"X": np.ones((1, 3), np.float32)}},
            InvalidTensor,
            "unexpected shape for input 'X' for model 'double'. Expected [1,2], got [1,3].",
        ),
        (
            {"inputs": {"X": X.astype(np.float64)}},
            InvalidTensor,
            "unexpected datatype 'FP64' for input 'X' for model 'double', expected 'FP32'",
        ),
        ({"outputs": ["Q"]}, InvalidTensor, "unexpected inference output 'Q' for model 'double'"),
        ({"model": ""}, InvalidArgument, "model_name is empty"),
    ],
)
def test_errors_are_the_yards(
    client: Client, arguments: dict[str, Any], kind: type[ModelyardError], text: str
) -> None:
    with pytest.raises(kind) as caught:
        client.infer(**{"model": "double", "inputs": {"X": X}, **arguments})
    assert type(caught.value) is kind
    assert caught.value.message == text


def test_errors_reach_nvidias_client_with_their_codes(nvidia: Any) -> None:
    with pytest.raises(InferenceServerException) as caught:
        nvidia.infer("nope", inputs())
    assert caught.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException) as caught:
        nvidia.infer("double", inputs(name="Z"))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_what_only_a_yard_has_is_not_there(nvidia: Any, client: Client) -> None:
    with pytest.raises(InferenceServerException) as caught:
        nvidia.load_model("double")
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    assert "model_repository" not in nvidia.get_server_metadata().extensions
    with pytest.raises(Unimplemented):
        client.models()


def test_a_deadline_stops_the_run(served: Serving, client: Client) -> None:
    with pytest.raises(DeadlineExceeded):
        client.infer("slow", HOURS, deadline=0.05)
    eventually(lambda: stopped(served) >= 1)
    assert pending(served) == 0


async def test_a_cancelled_call_stops_its_run(served: Serving) -> None:
    before = stopped(served)
    async with AsyncClient(served.address) as client:
        call = asyncio.create_task(client.infer("slow", HOURS))
        async with asyncio.timeout(30):
            while not await asyncio.to_thread(pending, served):
                await asyncio.sleep(0.02)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(30):
            while await asyncio.to_thread(pending, served):
                await asyncio.sleep(0.02)
    assert stopped(served) == before + 1


def test_a_slow_model_does_not_hold_up_another(served: Serving, client: Client) -> None:
    failures: list[ModelyardError] = []

    def ask() -> None:
        with served.client() as own:
            try:
                own.infer("slow", HOURS, deadline=60)
            except ModelyardError as error:
                failures.append(error)

    with served.client() as own:
        future = threading.Thread(target=ask, daemon=True)
        future.start()
        eventually(lambda: pending(served) >= 1)
        for _ in range(20):
            np.testing.assert_array_equal(own.infer("double", {"X": X})["Y"], 2 * X)
        assert pending(served) >= 1, "the slow one is still at it"
        assert not failures


def test_health_reflection_and_channelz(served: Serving) -> None:
    with grpc.insecure_channel(served.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        servers = channelz_pb2_grpc.ChannelzStub(channel).GetServers(
            channelz_pb2.GetServersRequest(), timeout=10
        )
        assert servers.server[0].data.calls_started > 0
        ask = reflection_pb2.ServerReflectionRequest
        listed, found = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter(
                [
                    ask(list_services=""),
                    ask(file_containing_symbol="inference.GRPCInferenceService"),
                ]
            ),
            timeout=10,
        )
    names = {service.name for service in listed.list_services_response.service}
    assert names == {
        "inference.GRPCInferenceService",
        "modelyard.gateway.v1.GatewayService",
        "grpc.health.v1.Health",
        "grpc.channelz.v1.Channelz",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert found.file_descriptor_response.file_descriptor_proto


def test_metrics_name_each_model_once(served: Serving, client: Client) -> None:
    client.infer("double", {"X": X})
    client.infer("slow", {"rounds": np.array(1), "x": ONE})
    text = metrics(served)
    types = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    for model in ("double", "slow"):
        assert f'modelyard_calls_total{{model="{model}",outcome="success",version="1"}}' in text
        assert f'modelyard_host_pending_runs{{model="{model}",version="1"}}' in text


def test_the_commands_that_ask_work(served: Serving, client: Client) -> None:
    ended = cli("infer", "double", "-i", "X=[[3, 4]]", "--json", address=served.address)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["outputs"]["Y"]["data"] == [[6.0, 8.0]]
    ended = cli("top", "--once", "--json", "--interval", "0.1", address=served.address)
    assert ended.returncode == 0, ended.stderr


def test_a_message_that_is_too_large(tmp_path: Path) -> None:
    limit = {"MODELYARD_SERVE_MAX_MESSAGE_BYTES": str(1 << 20)}
    with (
        serving(tmp_path, scale(tmp_path, 2.0), "--name", "m", environment=limit) as served,
        served.client() as client,
    ):
        with pytest.raises(MessageTooLarge):
            client.infer("m", {"X": np.ones((1 << 18, 2), np.float32)})
        np.testing.assert_array_equal(client.infer("m", {"X": X})["Y"], 2 * X)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_ends_what_has_begun(tmp_path: Path, number: int) -> None:
    answers: list[Any] = []

    def ask(served: Serving) -> None:
        with served.client() as own:
            try:
                answers.append(own.infer("slow", ONE_SECOND, deadline=60))
            except ModelyardError as error:
                answers.append(error)

    with serving(tmp_path, loop(tmp_path)) as served:
        asking = threading.Thread(target=ask, args=(served,), daemon=True)
        asking.start()
        eventually(lambda: pending(served) == 1)
        served.process.send_signal(number)
        assert served.process.wait(60) == 0, served.stderr.read_text()
        asking.join(30)
        (answer,) = answers
        assert not isinstance(answer, ModelyardError), answer
        assert str(answer.served_by) == "models/slow/versions/1"
        with served.client() as client, pytest.raises(HostGone):
            client.infer("slow", ONE_SECOND, deadline=5)


def test_tls_and_mutual_tls(tmp_path: Path) -> None:
    ours, strange = Authority(tmp_path / "ours"), Authority(tmp_path / "strange")
    cert, key = ours.sign()
    flags = ("--tls-cert", cert, "--tls-key", key)
    model = f"m={scale(tmp_path, 2.0)}"

    def answered(served: Serving, tls: Tls | None) -> bool:
        with Client(served.address, tls=tls) as client:
            try:
                return bool((client.infer("m", {"X": X}, deadline=30)["Y"] == 2 * X).all())
            except HostGone:
                return False

    with serving(tmp_path, model, *flags) as served:
        assert answered(served, Tls(ours.cert))
        assert not answered(served, Tls(strange.cert))
        assert not answered(served, None)
        nvidia = triton.InferenceServerClient(
            served.address, ssl=True, root_certificates=str(ours.cert)
        )
        np.testing.assert_array_equal(nvidia.infer("m", inputs()).as_numpy("Y"), 2 * X)
        nvidia.close()
    with serving(tmp_path, model, *flags, "--tls-client-ca", ours.cert) as served:
        assert answered(served, Tls(ours.cert, *ours.sign()))
        assert not answered(served, Tls(ours.cert, *strange.sign()))
        assert not answered(served, Tls(ours.cert))


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (("--tls-cert", "absent.pem"), 2, "tls_cert and tls_key belong together"),
        (("--tls-cert", "absent.pem", "--tls-key", "absent.key"), 1, "absent.key' cannot be read"),
        (("--tls-client-ca", "absent.pem"), 2, "needs tls_cert and tls_key"),
    ],
)
def test_tls_that_is_half_given(
    tmp_path: Path, flags: tuple[str, ...], code: int, text: str
) -> None:
    path = str(scale(tmp_path, 2.0))
    ended = cli("serve", f"m={path}", "--grpc-port", "0", "--metrics-port", "0", *flags)
    assert ended.returncode == code, ended.stderr
    assert text in ended.stderr


def test_spans_go_to_a_collector(tmp_path: Path) -> None:
    with (
        collecting() as (spans, endpoint),
        serving(tmp_path, f"m={scale(tmp_path, 2.0)}", "--otlp-endpoint", endpoint) as served,
    ):
        traced_call(served.address, "m")
        with pytest.raises(grpc.RpcError):
            traced_call(served.address, "nope")
        served.terminate()
        assert served.process.wait(60) == 0, served.stderr.read_text()
        # What was made last goes out before the end: nobody needs to wait.
        made = spans.of("serve", TRACE)
        calls = [span for span in made if span.parent_span_id.hex() == PARENT]
        assert {span.name for span in calls} == {INFER}
        (failed,) = (span for span in calls if span.status.code == 2)
        assert "not found" in failed.status.message
        (answered,) = (span for span in calls if span.status.code != 2)
        told = {a.key: a.value.string_value for a in answered.attributes}
        assert told["modelyard.served_by"] == "models/m/versions/1"
        (attempt,) = (span for span in made if span.parent_span_id == answered.span_id)
        assert attempt.name == "attempt primary"


def test_a_model_that_keeps_its_tensors_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    path = scale(folder, 3.0, external=True)
    assert list(folder.glob("*.data"))
    with (
        serving(tmp_path, f"file={path}", f"folder={folder}") as served,
        served.client() as client,
    ):
        for model in ("file", "folder"):
            np.testing.assert_array_equal(client.infer(model, {"X": X})["Y"], 3 * X)


@pytest.mark.parametrize("kind", ["missing", "cut off", "outside its folder"])
def test_tensors_beside_it_that_are_none(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = scale(folder, 3.0, external=True)
    (data,) = folder.glob("*.data")
    if kind == "missing":
        data.unlink()
    elif kind == "cut off":
        data.write_bytes(data.read_bytes()[:3])
    else:
        data.rename(tmp_path / data.name)
        model = onnx.load(path, load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "location":
                entry.value = f"../{data.name}"
        path.write_bytes(model.SerializeToString())
    ended = cli("serve", f"m={path}", "--grpc-port", "0", "--metrics-port", "0")
    assert ended.returncode == 1, ended.stderr
    # Before it, onnxruntime may have words of its own.
    line = ended.stderr.splitlines()[-1]
    assert line.startswith(f"error: INVALID_ARTIFACT: {path}: onnxruntime cannot load the model")
    assert ended.stdout == ""


def test_a_socket(tmp_path: Path) -> None:
    with (
        # The paths of pytest's folders are too long for a socket.
        tempfile.TemporaryDirectory(prefix="serve-") as short,
        serving(
            tmp_path, scale(tmp_path, 2.0), "--name", "m", "--listen", f"unix:{short}/s"
        ) as served,
        served.client() as client,
    ):
        assert served.address == f"unix:{short}/s"
        np.testing.assert_array_equal(client.infer("m", {"X": X})["Y"], 2 * X)


def test_the_line_for_people(tmp_path: Path) -> None:
    ended = cli("serve", "--help")
    assert ended.returncode == 0
    assert "FILE.onnx" in ended.stdout


def spoilt(folder: Path, kind: str) -> Path:
    path = folder / "spoilt.onnx"
    if kind == "not ONNX":
        path.write_text("this is no model")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut off":
        path.write_bytes(scale(folder, 2.0).read_bytes()[:40])
    elif kind == "a folder without a model":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("missing", "spoilt.onnx: is not there"),
        ("not ONNX", "spoilt.onnx: onnxruntime cannot load the model"),
        ("empty", "spoilt.onnx: is empty"),
        ("cut off", "spoilt.onnx: onnxruntime cannot load the model"),
        ("a folder without a model", "spoilt.onnx: no file *.onnx"),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, kind: str, text: str) -> None:
    path = spoilt(tmp_path, kind)
    ended = cli("serve", str(path), "--grpc-port", "0", "--metrics-port", "0")
    assert ended.returncode == 1, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: INVALID_ARTIFACT: {path.parent}/{text}")
    assert ended.stdout == ""


def test_arguments_that_are_wrong(tmp_path: Path, served: Serving) -> None:
    path = scale(tmp_path, 2.0)
    cases: list[tuple[list[str], int, str]] = [
        ([str(path), "--grpc-port", "0"], 1, "error: INVALID_NAME: model name 'scale 2'"),
        ([f"a={path}", f"a={path}"], 1, "two files are named 'a'"),
        ([str(path), str(path), "--name", "m"], 2, "--name"),
        ([], 2, "Missing argument"),
        ([f"a={path}", "--listen", "nowhere"], 2, "listen 'nowhere'"),
        ([f"a={path}", "--host", "0.0.0.0"], 2, "insecure"),
        ([f"a={path}", "--listen", served.address], 1, "cannot be bound"),
    ]
    spaced = tmp_path / "scale 2.onnx"
    spaced.write_bytes(path.read_bytes())
    cases[0][0][0] = str(spaced)
    for arguments, code, text in cases:
        ended = cli("serve", *arguments, "--metrics-port", "0")
        assert ended.returncode == code, (arguments, ended.stderr)
        assert text in ended.stderr, arguments


def metrics(served: Serving) -> str:
    with urllib.request.urlopen(f"http://{served.ready['metrics']}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def value(served: Serving, name: str, model: str) -> float:
    start = f'{name}{{model="{model}",version="1"}} '
    return next(
        float(line.removeprefix(start))
        for line in metrics(served).splitlines()
        if line.startswith(start)
    )


def stopped(served: Serving) -> float:
    return value(served, "modelyard_host_stopped_runs_total", "slow")


def pending(served: Serving) -> float:
    return value(served, "modelyard_host_pending_runs", "slow")
