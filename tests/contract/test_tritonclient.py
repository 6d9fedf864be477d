"""The gateway and NVIDIA's client, as it is: every RPC, sync, aio and stream."""

import queue
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.kit.gateway import WAYS, flags_of
from tests.kit.scale import scale
from tests.kit.yard import Yard, running_yard

MODEL = "scale"
X = np.array([[1.0, 2.0]], np.float32)


@pytest.fixture(scope="module", params=WAYS)
def yard(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Yard]:
    folder = tmp_path_factory.mktemp("triton")
    front, lane = request.param
    with running_yard(folder / "yard", *flags_of(front), lane=lane) as yard:
        yard.client.register(MODEL, scale(folder, 2.0), wait=True)
        yard.client.register(MODEL, scale(folder, 3.0), label="canary", wait=True)
        yield yard


@pytest.fixture
def client(yard: Yard) -> Iterator[Any]:
    client = triton.InferenceServerClient(yard.address)
    yield client
    client.close()


def inputs(array: np.ndarray = X, name: str = "X", kind: Any = triton) -> list[Any]:
    tensor = kind.InferInput(name, list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    return [tensor]


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "2")
    assert not client.is_model_ready(MODEL, "9")
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata().name == "modelyard"
    metadata = client.get_model_metadata(MODEL)
    assert metadata.name == MODEL
    assert list(metadata.versions) == ["1", "2"]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("X", "FP32", [-1, 2])
    ]
    config = client.get_model_config(MODEL).config
    assert [i.name for i in config.input] == ["X"]


@pytest.mark.parametrize(
    ("version", "factor", "served"),
    [("", 2, "1"), ("1", 2, "1"), ("2", 3, "2"), ("canary", 3, "2")],
)
def test_infer_by_number_label_or_nothing(
    client: Any, version: str, factor: int, served: str
) -> None:
    result = client.infer(MODEL, inputs(), model_version=version, request_id="my-id")
    np.testing.assert_array_equal(result.as_numpy("Y"), X * factor)
    response = result.get_response()
    assert (response.model_name, response.model_version, response.id) == (MODEL, served, "my-id")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ({"model_name": "nope"}, "NOT_FOUND", "Request for unknown model: 'nope' is not found"),
        (
            {"model_version": "9"},
            "NOT_FOUND",
            "Request for unknown model: 'scale' version 9 is not found",
        ),
        (
            {"inputs": inputs(name="Z")},
            "INVALID_ARGUMENT",
            "unexpected inference input 'Z' for model 'scale'",
        ),
        (
            {"inputs": inputs(np.ones((1, 3), np.float32))},
            "INVALID_ARGUMENT",
            "unexpected shape for input 'X' for model 'scale'. Expected [1,2], got [1,3].",
        ),
    ],
)
def test_errors_have_their_codes_and_texts(
    client: Any, arguments: dict[str, Any], code: str, text: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(**{"model_name": MODEL, "inputs": inputs(), **arguments})
    assert code in str(caught.value.status())
    assert text in caught.value.message()


def test_statistics_count_what_was_inferred(client: Any) -> None:
    def counts() -> tuple[int, int]:
        (stats,) = client.get_inference_statistics(MODEL, "1").model_stats
        return stats.inference_stats.success.count, stats.inference_stats.queue.count

    success, queued = counts()
    for _ in range(3):
        client.infer(MODEL, inputs(), model_version="1")
    assert counts() == (success + 3, queued + 3)
    assert {s.version for s in client.get_inference_statistics().model_stats} == {"1", "2"}


def test_repository(client: Any, yard: Yard, tmp_path: Any) -> None:
    index = {(m.name, m.version): m.state for m in client.get_model_repository_index().models}
    assert index[MODEL, "1"] == index[MODEL, "2"] == "READY"
    yard.client.register("second", scale(tmp_path, 5.0), wait=True)
    yard.client.register("second", scale(tmp_path, 6.0))
    assert not client.is_model_ready("second", "2")
    client.load_model("second")
    assert client.is_model_ready("second", "2")
    client.unload_model("second")
    assert client.is_model_ready("second", "1"), "it is live: an unload leaves it"


def test_a_stream_answers_in_order_and_tells_errors(client: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for index in range(50):
        client.async_stream_infer(
            MODEL, inputs(np.full((1, 2), index, np.float32)), request_id=str(index)
        )
    for index in range(50):
        result, error = answers.get(timeout=30)
        assert error is None
        assert result.get_response().id == str(index)
        assert result.as_numpy("Y")[0, 0] == 2 * index
    client.async_stream_infer("nope", inputs())
    _, error = answers.get(timeout=30)
    assert "unknown model: 'nope'" in str(error)
    client.async_stream_infer(MODEL, inputs(), request_id="after")
    result, error = answers.get(timeout=30)
    assert error is None, "an error does not end the stream"
    client.stop_stream()


async def test_aio(yard: Yard) -> None:
    async with triton_aio.InferenceServerClient(yard.address) as client:
        assert await client.is_server_ready()
        result = await client.infer(MODEL, inputs(kind=triton_aio), model_version="canary")
        np.testing.assert_array_equal(result.as_numpy("Y"), X * 3)

        async def requests() -> Any:
            for index in range(5):
                yield {"model_name": MODEL, "inputs": inputs(), "request_id": str(index)}

        ids = [r.get_response().id async for r, error in client.stream_infer(requests())]
        assert ids == [str(index) for index in range(5)]


def test_reflection_lists_every_service_and_resolves_the_protocol(yard: Yard) -> None:
    with grpc.insecure_channel(yard.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest
        listed, found = stub.ServerReflectionInfo(
            iter(
                [
                    ask(list_services=""),
                    ask(file_containing_symbol="inference.GRPCInferenceService"),
                ]
            )
        )
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {
        "inference.GRPCInferenceService",
        "modelyard.gateway.v1.GatewayService",
        "modelyard.registry.v1.RegistryService",
        "modelyard.registry.v1.ArtifactService",
        "modelyard.registry.v1.HostService",
        "modelyard.registry.v1.RouteService",
        "grpc.health.v1.Health",
        "grpc.channelz.v1.Channelz",
    }
    assert found.file_descriptor_response.file_descriptor_proto


def test_an_answer_says_who_served_it(yard: Yard) -> None:
    answer = yard.client.infer(MODEL, {"X": X}, version="canary", request_id="mine")
    assert str(answer.served_by) == "models/scale/versions/2"
    assert (answer.attempt, answer.request_id) == ("primary", "mine")
