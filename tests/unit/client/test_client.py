"""Both clients, against a small server of the protocol in this process."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from datetime import timedelta
from typing import Any

import grpc
import numpy as np
import pytest

from modelyard.client import AsyncClient, Client
from modelyard.errors import DeadlineExceeded, HostGone, InvalidArgument, NotFound
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.inference.v2 import open_inference_pb2_grpc as oip_grpc
from modelyard.names import VersionName


class Echo(oip_grpc.GRPCInferenceServiceServicer):
    """Answers with its inputs; `missing` is no model, and `slow` never answers in time."""

    def ModelInfer(
        self, request: oip.ModelInferRequest, context: grpc.ServicerContext
    ) -> oip.ModelInferResponse:
        if request.model_name == "missing":
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        if request.model_name == "slow":
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, str(context.time_remaining()))
        metadata = dict(context.invocation_metadata())
        if request.model_name == "silent":
            return oip.ModelInferResponse()
        context.set_trailing_metadata(
            (
                ("modelyard-served-by", "models/echo/versions/3"),
                ("modelyard-attempt", "primary"),
                ("modelyard-request-id", "theirs"),
            )
        )
        response = self._echo(request)
        response.parameters["caller"].string_param = metadata.get("x-caller", "")
        return response

    def ModelStreamInfer(
        self, requests: Iterator[oip.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[oip.ModelStreamInferResponse]:
        assert dict(context.invocation_metadata())["triton_grpc_error"] == "true"
        for request in requests:
            if request.model_name == "missing":
                context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
            yield oip.ModelStreamInferResponse(infer_response=self._echo(request))

    def _echo(self, request: oip.ModelInferRequest) -> oip.ModelInferResponse:
        response = oip.ModelInferResponse(
            model_name="echo", model_version=request.model_version or "3", id=request.id
        )
        wanted = {output.name for output in request.outputs}
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            if wanted and tensor.name not in wanted:
                continue
            output = response.outputs.add(name=tensor.name, datatype=tensor.datatype)
            output.shape.extend(tensor.shape)
            response.raw_output_contents.append(raw)
        return response


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    oip_grpc.add_GRPCInferenceServiceServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, metadata={"X-Caller": "test"}) as client:
        yield client


@pytest.fixture
async def async_client(address: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(address, metadata={"X-Caller": "test"}) as client:
        yield client


INPUTS: dict[str, Any] = {
    "X": np.arange(6, dtype=np.float32).reshape(2, 3),
    "words": np.array(["a", "ü"]),
}


def test_an_answer_is_a_mapping_of_arrays(client: Client) -> None:
    answer = client.infer("echo", INPUTS, request_id="mine")

    assert list(answer) == ["X", "words"]
    np.testing.assert_array_equal(answer["X"], INPUTS["X"])
    assert answer["words"].tolist() == [b"a", "ü".encode()]
    assert answer.served_by == VersionName("echo", 3)
    assert answer.version == 3
    assert answer.attempt == "primary"
    assert answer.request_id == "mine"
    assert answer.parameters == {"caller": "test"}


async def test_the_async_client_gives_the_same(client: Client, async_client: AsyncClient) -> None:
    one = client.infer("echo", INPUTS)
    other = await async_client.infer("echo", INPUTS)

    assert one.served_by == other.served_by
    assert one.request_id == other.request_id == "theirs"
    np.testing.assert_array_equal(one["X"], other["X"])


def test_chosen_outputs(client: Client) -> None:
    assert list(client.infer("echo", INPUTS, outputs=["words"])) == ["words"]


def test_a_server_that_says_nothing(client: Client) -> None:
    answer = client.infer("silent", {})

    assert (dict(answer), answer.served_by, answer.version, answer.attempt) == ({}, None, None, "")


def test_errors_are_typed(client: Client) -> None:
    with pytest.raises(NotFound, match="unknown model"):
        client.infer("missing", INPUTS)
    with pytest.raises(InvalidArgument, match="parameter 'k'"):
        client.infer("echo", INPUTS, parameters={"k": []})  # type: ignore[dict-item]


async def test_errors_of_the_async_client_are_typed(async_client: AsyncClient) -> None:
    with pytest.raises(NotFound, match="unknown model"):
        await async_client.infer("missing", INPUTS)


@pytest.mark.parametrize("deadline", [5, timedelta(seconds=5)], ids=["seconds", "timedelta"])
def test_the_deadline_travels(client: Client, deadline: float | timedelta) -> None:
    with pytest.raises(DeadlineExceeded) as error:
        client.infer("slow", {}, deadline=deadline)

    # The header rounds up.
    assert 0 < float(error.value.message) < 6


def test_nobody_answers() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(HostGone, match="no yard answers at 127"):
        client.models()


def test_a_stream_answers_in_order(client: Client) -> None:
    items = [{"X": np.array([number])} for number in range(20)]

    answers = list(client.stream("echo", items, version="7"))

    assert [answer["X"].item() for answer in answers] == list(range(20))
    assert {answer.version for answer in answers} == {7}


def test_an_error_ends_a_stream(client: Client) -> None:
    with pytest.raises(NotFound, match="unknown model"):
        list(client.stream("missing", [INPUTS]))


async def test_the_async_stream_takes_async_items(async_client: AsyncClient) -> None:
    async def items() -> AsyncIterator[dict[str, Any]]:
        for number in range(5):
            await asyncio.sleep(0)
            yield {"X": np.array([number])}

    answers = [answer async for answer in async_client.stream("echo", items())]

    assert [answer["X"].item() for answer in answers] == list(range(5))


def test_the_address_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("MODELYARD_ADDRESS", address)
    with Client() as client:
        assert client.infer("echo", INPUTS).version == 3
