"""What callers of either front may rely on: gRPC's semantics, whole.

The cases of gRPC's interoperability suite that fit this protocol are among them:
https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md

Past 300 lines: one gateway for each front serves all of it; a second file would start each again.
"""

import asyncio
import gzip
import json
import queue
import signal
import struct
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest

from modelyard.client import AsyncClient
from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.inference.v2 import open_inference_pb2_grpc as pb_grpc
from tests.kit import graphs
from tests.kit.certificates import Authority
from tests.kit.gateway import GATEWAYS, Gateway, flags_of, only_envoy, running_gateway
from tests.kit.http2 import INFER, Connection
from tests.kit.yard import LANES, Yard, eventually, running_yard

PATIENCE = 30.0
LIMIT = 8 << 20


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    folder = tmp_path_factory.mktemp("fronts")
    with running_yard(folder / "yard", "--front", "grpcio") as yard:
        for name, model in {"id": graphs.identity(), "slow": graphs.loop()}.items():
            onnx.save(model, folder / f"{name}.onnx")
            yard.client.register(name, folder / f"{name}.onnx", wait=True)
        yield yard


@pytest.fixture(scope="module", params=GATEWAYS)
def gateway(
    yard: Yard, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    log = tmp_path_factory.mktemp(request.param) / "gateway.log"
    flags = (*flags_of(request.param), "--max-message-bytes", str(LIMIT))
    with running_gateway(yard.layout.registry_socket, log, *flags) as gateway:
        gateway.front = request.param
        with Stub(gateway) as stub:
            eventually(lambda: stub.ModelReady(pb.ModelReadyRequest(name="slow")).ready)
        yield gateway


class Stub:
    """A stub on a channel of its own."""

    def __init__(self, gateway: Gateway) -> None:
        self.channel = grpc.insecure_channel(gateway.address)

    def __enter__(self) -> pb_grpc.GRPCInferenceServiceStub:
        return pb_grpc.GRPCInferenceServiceStub(self.channel)

    def __exit__(self, *_: object) -> None:
        self.channel.close()


@pytest.fixture
def channel(gateway: Gateway) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(gateway.address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> pb_grpc.GRPCInferenceServiceStub:
    return pb_grpc.GRPCInferenceServiceStub(channel)


def request_of(model: str = "id", size: int = 3, **given: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, **given)
    request.inputs.add(name="x", datatype="FP32", shape=[size])
    request.raw_input_contents.append(np.arange(size, dtype=np.float32).tobytes())
    return request


def endless() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="slow")
    request.inputs.add(name="rounds", datatype="INT64", shape=[])
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    request.raw_input_contents.append(np.int64(1 << 40).tobytes())
    request.raw_input_contents.append(np.ones(1, np.float32).tobytes())
    return request


def body(request: pb.ModelInferRequest) -> bytes:
    payload = request.SerializeToString()
    return struct.pack(">BI", 0, len(payload)) + payload


def pending(gateway: Gateway) -> int:
    """Attempts under way on the slow model, as the gateway tells."""
    from modelyard.gateway.v1 import gateway_service_pb2, gateway_service_pb2_grpc

    with grpc.insecure_channel(gateway.address) as channel:
        asked = gateway_service_pb2_grpc.GatewayServiceStub(channel)
        told = asked.GetStatus(gateway_service_pb2.GetStatusRequest(), timeout=PATIENCE)
    return sum(r.pending for r in told.replicas if r.version.startswith("models/slow/"))


# The cases of gRPC's interoperability suite


def test_empty_unary(stub: Any) -> None:
    assert stub.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE).live
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(pb.ModelInferRequest(), timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "model_name is empty" in str(caught.value.details())


def test_large_unary(stub: Any) -> None:
    request = request_of(size=300_000)
    answer = stub.ModelInfer(request, timeout=PATIENCE)
    assert answer.raw_output_contents[0] == request.raw_input_contents[0]


@pytest.mark.parametrize("encoding", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_unary_and_streaming(stub: Any, encoding: grpc.Compression) -> None:
    request = request_of(size=100_000)
    answer = stub.ModelInfer(request, timeout=PATIENCE, compression=encoding)
    assert answer.raw_output_contents[0] == request.raw_input_contents[0]
    answers = stub.ModelStreamInfer(iter([request] * 3), timeout=PATIENCE, compression=encoding)
    got = [a.infer_response.raw_output_contents[0] for a in answers]
    assert got == [request.raw_input_contents[0]] * 3


def test_ping_pong(stub: Any) -> None:
    sent: queue.Queue[Any] = queue.Queue()
    answers = stub.ModelStreamInfer(iter(sent.get, None), timeout=PATIENCE)
    for number in range(5):
        sent.put(request_of(size=10 * (number + 1), id=str(number)))
        assert next(answers).infer_response.id == str(number)
    sent.put(None)
    assert list(answers) == []


def test_empty_stream(stub: Any) -> None:
    call = stub.ModelStreamInfer(iter(()), timeout=PATIENCE)
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


def test_server_streaming_has_flow_control(stub: Any) -> None:
    # 60 MB of answers wait for a caller who takes none of them for a while.
    request = request_of(size=500_000)
    answers = stub.ModelStreamInfer(iter([request] * 30), timeout=2 * PATIENCE)
    first = next(answers)
    assert first.infer_response.raw_output_contents[0] == request.raw_input_contents[0]
    # Others are served meanwhile, on the same connection.
    assert stub.ModelInfer(request_of(), timeout=PATIENCE).model_name == "id"
    assert sum(1 for _ in answers) == 29


def test_custom_metadata(stub: Any) -> None:
    sent = (
        ("modelyard-request-id", "mine"),
        ("x-grpc-test-echo-initial", "test_initial_metadata_value"),
        ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab\x00"),
    )
    _, call = stub.ModelInfer.with_call(request_of(), timeout=PATIENCE, metadata=sent)
    trailing = dict(call.trailing_metadata())
    assert trailing["modelyard-request-id"] == "mine"
    assert trailing["modelyard-served-by"] == "models/id/versions/1"
    assert trailing["modelyard-attempt"] == "primary"


def test_status_code_and_message_with_details_in_trailers(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request_of("nope"), timeout=PATIENCE)
    error = caught.value
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "Request for unknown model: 'nope' is not found" in str(error.details())
    trailing = dict(error.trailing_metadata())
    assert b"MODEL_NOT_FOUND" in trailing["grpc-status-details-bin"]
    assert trailing["modelyard-request-id"]


def test_special_status_message(stub: Any) -> None:
    special = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n 100%"
    request = request_of()
    request.inputs[0].name = special
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert special in str(caught.value.details())


def test_unimplemented_method_and_service(channel: grpc.Channel) -> None:
    for method in ("/inference.GRPCInferenceService/Nope", "/nope.Nope/Nope"):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(method)(b"", timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_timeout_on_sleeping_server(stub: Any, gateway: Gateway) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(endless(), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: pending(gateway) == 0)


def test_cancel_after_begin_stops_the_computation(stub: Any, gateway: Gateway) -> None:
    call = stub.ModelInfer.future(endless(), timeout=10 * PATIENCE)
    eventually(lambda: pending(gateway) == 1)
    call.cancel()
    assert call.code() is grpc.StatusCode.CANCELLED
    eventually(lambda: pending(gateway) == 0)


@pytest.mark.parametrize("half_closed", [False, True])
def test_cancel_after_first_response(stub: Any, gateway: Gateway, half_closed: bool) -> None:
    sent: queue.Queue[Any] = queue.Queue()
    call = stub.ModelStreamInfer(iter(sent.get, None), timeout=10 * PATIENCE)
    sent.put(request_of(id="first"))
    assert next(call).infer_response.id == "first"
    sent.put(endless())
    if half_closed:
        sent.put(None)
    eventually(lambda: pending(gateway) == 1)
    call.cancel()
    sent.put(None)
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    eventually(lambda: pending(gateway) == 0)


def test_a_connection_that_breaks_cancels_its_calls(gateway: Gateway) -> None:
    with Connection(gateway.address) as connection:
        connection.send(connection.begin(), body(endless()))
        eventually(lambda: pending(gateway) == 1)
    eventually(lambda: pending(gateway) == 0)


def test_one_id_for_several_calls_cancels_one(gateway: Gateway) -> None:
    # The headers that callers choose are no names of streams.
    with Connection(gateway.address) as connection:
        first, second = (
            connection.begin(x_request_id="same", x_modelyard_given_request_id="same")
            for _ in range(2)
        )
        for stream in (first, second):
            connection.send(stream, body(endless()))
        eventually(lambda: pending(gateway) == 2)
        connection.h2.reset_stream(first)
        connection.flush()
        eventually(lambda: pending(gateway) == 1)
        assert connection.call(body(request_of())).status == "0"
        assert pending(gateway) == 1


def test_a_connection_outlives_many_cancelled_calls(gateway: Gateway) -> None:
    with Connection(gateway.address) as connection:
        kept = connection.begin()
        connection.send(kept, GOOD[:7], end=False)
        for _ in range(60):
            for stream in [connection.begin() for _ in range(20)]:
                connection.send(stream, GOOD)
                connection.h2.reset_stream(stream)
            connection.flush()
            # Takes turns, as callers do.
            assert connection.call(GOOD).status == "0"
        connection.send(kept, GOOD[7:])
        assert connection.response(kept).status == "0"
        assert not connection.goaway
    # One that is given up is no failure of the gateway's.
    assert "InvalidState" not in gateway.log.read_text()


async def test_many_calls_on_one_connection(gateway: Gateway) -> None:
    async with AsyncClient(gateway.address) as client:
        x = {"x": np.ones(3, np.float32)}
        answers = await asyncio.gather(*(client.infer("id", x) for _ in range(300)))
    assert all(answer["y"].tolist() == [1, 1, 1] for answer in answers)


# Malformed and large


def test_a_message_above_the_limit(stub: Any) -> None:
    request = request_of(size=LIMIT // 4 + 1)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in str(caught.value.details())


def test_a_bomb_is_not_inflated(gateway: Gateway) -> None:
    small = gzip.compress(bytes(LIMIT * 4))
    with Connection(gateway.address) as connection:
        framed = struct.pack(">BI", 1, len(small)) + small
        response = connection.call(framed, grpc_encoding="gzip")
    assert response.status == str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])


GOOD = body(request_of())
WRONG: dict[str, tuple[bytes, dict[str, str]]] = {
    "no message": (b"", {}),
    "half a prefix": (GOOD[:3], {}),
    "half a message": (GOOD[:-1], {}),
    "a flag that is none": (b"\x07" + GOOD[1:], {}),
    "no message of protobuf": (struct.pack(">BI", 0, 3) + b"\xff\xff\xff", {}),
    "compressed, and not said how": (b"\x01" + GOOD[1:], {}),
    "compressed, and is not": (b"\x01" + GOOD[1:], {"grpc_encoding": "gzip"}),
    "an encoding that nobody knows": (GOOD, {"grpc_encoding": "zither"}),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_malformed_request_is_refused(gateway: Gateway, case: str) -> None:
    sent, headers = WRONG[case]
    with Connection(gateway.address) as connection:
        # grpc.aio waits for the rest of a message that is over, until the deadline.
        response = connection.call(sent, grpc_timeout="300m", **headers)
        # A status other than OK, or the stream's reset: no answer, and no hang.
        assert response.status not in ("0",), case
        assert response.status is not None or response.reset is not None
        assert connection.call(GOOD).status == "0"


def test_wrong_http2_harms_nobody_else(gateway: Gateway) -> None:
    rng = np.random.default_rng(7)
    with Connection(gateway.address) as good:
        assert good.call(GOOD).status == "0"
        for _ in range(40):
            try:
                with Connection(gateway.address) as connection:
                    connection.begin()
                    for _ in range(4):
                        size = int(rng.integers(0, 64))
                        head = (
                            struct.pack(">I", size)[1:]
                            + rng.integers(0, 256, 6, np.uint8).tobytes()
                        )
                        connection.socket.sendall(
                            head[:9] + rng.integers(0, 256, size, np.uint8).tobytes()
                        )
            except OSError:
                continue  # It was shown the door.
        assert good.call(GOOD).status == "0"


def test_keepalive_pings_are_answered(gateway: Gateway) -> None:
    options = [
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    with Connection(gateway.address) as connection:
        connection.h2.ping(b"are you?")
        connection.flush()
        assert connection.call(GOOD).status == "0"
        assert not connection.goaway
    with grpc.insecure_channel(gateway.address, options=options) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ModelInfer(request_of(), timeout=PATIENCE).model_name == "id"


# REST


def http(gateway: Gateway, method: str, path: str, body: Any = None) -> tuple[int, Any, Any]:
    connection = HTTPConnection(gateway.address, timeout=PATIENCE)
    try:
        sent = json.dumps(body) if isinstance(body, dict) else body
        connection.request(method, path, sent, {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null"), response.headers
    finally:
        connection.close()


@pytest.fixture
def rest(gateway: Gateway) -> Gateway:
    if gateway.front.startswith("grpcio"):
        pytest.skip("grpc.aio speaks gRPC alone")
    return gateway


def test_rest_infers(rest: Gateway) -> None:
    data = [[1.5, -2.0], [0.25, 4.0]]
    x = {"name": "x", "shape": [4], "datatype": "FP32", "data": data}
    status, answer, headers = http(rest, "POST", "/v2/models/id/infer", {"id": "7", "inputs": [x]})
    assert status == 200
    (y,) = answer.pop("outputs")
    assert y == {"name": "y", "datatype": "FP32", "shape": [4], "data": [1.5, -2.0, 0.25, 4.0]}
    assert answer == {"model_name": "id", "model_version": "1", "id": "7"}
    assert headers["modelyard-served-by"] == "models/id/versions/1"
    assert http(rest, "POST", "/v2/models/id/versions/1/infer", {"inputs": [x]})[0] == 200


def test_rest_tells_of_server_and_models(rest: Gateway) -> None:
    assert http(rest, "GET", "/v2/health/live")[:2] == (200, {"live": True})
    assert http(rest, "GET", "/v2/health/ready")[:2] == (200, {"ready": True})
    assert "extensions" in http(rest, "GET", "/v2")[1]
    assert http(rest, "GET", "/v2/models/id/ready")[:2] == (200, {"name": "id", "ready": True})
    told = http(rest, "GET", "/v2/models/id/versions/1")[1]
    assert (told["name"], told["versions"]) == ("id", ["1"])
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1]}]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v2/models/nope/infer", {"inputs": []}, 404),
        ("GET", "/v2/models/nope", None, 404),
        ("POST", "/v2/models/id/infer", "{", 400),
        ("POST", "/v2/models/id/infer", {"inputs": [{"name": "x"}]}, 400),
        ("POST", "/v2/models/id/infer", '{"inputs": [], "id": "\\ud800"}', 400),
        ("GET", "/v2/models/id/infer", None, 501),
        ("GET", "/v2/nothing", None, 404),
        ("POST", "/v2/models/id/infer", "[" * (LIMIT + 1), 413),
    ],
)
def test_rest_tells_what_is_wrong(rest, method, path, body, status) -> None:
    told, answer, _ = http(rest, method, path, body)
    assert (told, bool(answer["error"])) == (status, True)


def test_a_rest_caller_that_is_gone_cancels_its_call(rest: Gateway) -> None:
    inputs = [
        {"name": "rounds", "shape": [], "datatype": "INT64", "data": [1 << 40]},
        {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]},
    ]
    connection = HTTPConnection(rest.address, timeout=PATIENCE)
    connection.request("POST", "/v2/models/slow/infer", json.dumps({"inputs": inputs}))
    eventually(lambda: pending(rest) == 1)
    connection.close()
    eventually(lambda: pending(rest) == 0)


def test_what_is_no_grpc_and_no_rest(rest: Gateway) -> None:
    connection = HTTPConnection(rest.address, timeout=PATIENCE)
    connection.request("GET", "/")
    assert connection.getresponse().status == 404
    connection.close()


def test_a_call_that_does_not_say_that_it_takes_trailers(rest: Gateway) -> None:
    with Connection(rest.address) as connection:
        assert connection.call(GOOD, te="").status == "0"


# Ends


@pytest.fixture(params=GATEWAYS)
def front(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# grpc's core cancels calls that came and were not yet given to a handler when a server stops.
ZOMBIES = pytest.mark.xfail(reason="grpc.aio cancels calls that wait for it when it stops")


@pytest.mark.parametrize(
    ("front", "lane"),
    [
        *(pytest.param("grpcio", lane, marks=ZOMBIES) for lane in LANES),
        *(pytest.param("http2", lane) for lane in LANES),
        *(pytest.param("envoy", lane, marks=only_envoy) for lane in LANES),
        # The port drains before its workers do.
        *(
            pytest.param(front, "frames", marks=(only_envoy, pytest.mark.campaign))
            for front in ("grpcio-2", "http2-2", "envoy-2")
        ),
    ],
)
async def test_a_drain_under_load_fails_no_call(
    yard: Yard, front: str, lane: str, tmp_path: Path
) -> None:
    registry, flags = yard.layout.registry_socket, (*flags_of(front), "--lane", LANES[lane])
    with (
        running_gateway(registry, tmp_path / "a.log", *flags) as a,
        running_gateway(registry, tmp_path / "b.log", *flags) as b,
    ):
        over, failures, served = False, [], 0
        addresses = ",".join(g.address for g in (a, b))
        options = [("grpc.lb_policy_name", "round_robin")]
        async with grpc.aio.insecure_channel(f"ipv4:{addresses}", options=options) as channel:
            infer = channel.unary_unary(INFER)
            payload = request_of().SerializeToString()

            async def load() -> None:
                nonlocal served
                while not over:
                    try:
                        await infer(payload, timeout=PATIENCE)
                    except grpc.aio.AioRpcError as error:
                        failures.append(str(error))
                    else:
                        served += 1

            workers = [asyncio.create_task(load()) for _ in range(16)]
            await _until(lambda: served > 200)
            a.terminate()
            assert await asyncio.to_thread(a.process.wait, PATIENCE) == 0
            after = served
            await _until(lambda: served > after + 200)
            over = True
            await asyncio.gather(*workers)
        assert failures == []


async def test_a_drain_lets_calls_end_and_tells_idle_connections(
    yard: Yard, front: str, tmp_path: Path
) -> None:
    registry, log = yard.layout.registry_socket, tmp_path / "gateway.log"
    with (
        running_gateway(registry, log, *flags_of(front), "--drain-grace", "5") as gateway,
        Connection(gateway.address) as idle,
        Connection(gateway.address) as busy,
    ):
        assert idle.call(GOOD).status == "0"
        stream = busy.begin()
        busy.send(stream, GOOD[:7], end=False)
        gateway.terminate()
        # The connection that does nothing is told to go, and closed.
        with pytest.raises(ConnectionResetError):
            await asyncio.to_thread(_read_on, idle)
        assert idle.goaway
        busy.send(stream, GOOD[7:])
        assert (await asyncio.to_thread(busy.response, stream)).status == "0"
        assert await asyncio.to_thread(gateway.process.wait, PATIENCE) == 0


def _read_on(connection: Connection) -> None:
    while True:
        connection.receive()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


@only_envoy
def test_envoy_ends_with_the_process_that_started_it(yard: Yard, tmp_path: Path) -> None:
    registry = yard.layout.registry_socket
    with running_gateway(registry, tmp_path / "a.log", "--front", "envoy") as first:
        child = first.envoy()
        first.process.send_signal(signal.SIGKILL)
        child.wait(PATIENCE)
    # The port is free again.
    with running_gateway(
        *(registry, tmp_path / "b.log", "--front", "envoy"), listen=first.address
    ) as second:
        assert second.address == first.address


@only_envoy
def test_the_gateway_ends_when_envoy_does(yard: Yard, tmp_path: Path) -> None:
    registry, log = yard.layout.registry_socket, tmp_path / "a.log"
    with running_gateway(registry, log, "--front", "envoy") as gateway:
        gateway.envoy().kill()
        assert gateway.process.wait(PATIENCE) == 1


def test_a_taken_port_is_told(yard: Yard, front: str, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with (
        pytest.raises(RuntimeError, match="cannot be bound"),
        running_gateway(yard.layout.registry_socket, log, *flags_of(front), listen=yard.address),
    ):
        pass


def test_a_unix_socket(yard: Yard, front: str, tmp_path: Path) -> None:
    registry = yard.layout.registry_socket
    where = f"unix:{tmp_path}/s"
    with (
        running_gateway(registry, tmp_path / "log", *flags_of(front), listen=where) as gateway,
        Stub(gateway) as stub,
    ):
        assert stub.ModelInfer(request_of(), timeout=PATIENCE).model_name == "id"


# TLS


def test_tls_and_mutual_tls(yard: Yard, front: str, tmp_path: Path) -> None:
    ours, strange = Authority(tmp_path / "ours"), Authority(tmp_path / "strange")
    cert, key = ours.sign()
    flags = (*flags_of(front), "--tls-cert", str(cert), "--tls-key", str(key))
    registry = yard.layout.registry_socket
    with running_gateway(registry, tmp_path / "tls.log", *flags) as gateway:
        assert _tls_call(gateway, ours, None) == "id"
        with pytest.raises(grpc.RpcError):
            _tls_call(gateway, strange, None)
    flags += ("--tls-client-ca", str(ours.cert))
    with running_gateway(registry, tmp_path / "mtls.log", *flags) as gateway:
        assert _tls_call(gateway, ours, ours.sign()) == "id"
        for pair in (None, strange.sign()):
            with pytest.raises(grpc.RpcError) as caught:
                _tls_call(gateway, ours, pair)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def _tls_call(gateway: Gateway, roots: Authority, pair: tuple[Path, Path] | None) -> str:
    cert, key = (path.read_bytes() for path in pair) if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(roots.cert.read_bytes(), key, cert)
    with grpc.secure_channel(gateway.address, credentials) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        # The whole server stands behind the certificate, not the hot methods alone.
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE).live
        return str(stub.ModelInfer(request_of(), timeout=PATIENCE).model_name)
