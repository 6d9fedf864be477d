"""The protocol's JSON to and from its messages."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fronts import oip_json
from modelyard.client.codec import decode, encode
from modelyard.errors import (
    InvalidArgument,
    InvalidTensor,
    MessageTooLarge,
    ModelNotFound,
    ModelyardError,
)
from modelyard.inference.v2 import open_inference_pb2 as pb


def tensor(data: Any, datatype: str = "FP32", shape: Any = (2,), **more: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": list(shape), "data": data, **more}


def parsed(*inputs: Any, **more: Any) -> pb.ModelInferRequest:
    body = json.dumps({"inputs": list(inputs), **more}).encode()
    return pb.ModelInferRequest.FromString(oip_json.request("m", "3", body))


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", [2], [1.5, -2]),
        ("FP16", [2, 1], [[1], [2]]),
        ("FP64", [0], []),
        ("INT64", [1], [-(1 << 62)]),
        ("UINT64", [1], [(1 << 64) - 1]),
        ("UINT8", [2, 2], [[1, 2], [3, 255]]),
        ("BOOL", [2], [True, False]),
        ("BYTES", [2], ["", "grüße"]),
        ("BF16", [1], [1.5]),
    ],
)
def test_a_tensor_comes_and_goes(datatype: str, shape: list[int], data: list[Any]) -> None:
    request = parsed(tensor(data, datatype, shape))
    assert (request.model_name, request.model_version) == ("m", "3")
    (given_input,), (raw,) = request.inputs, request.raw_input_contents
    assert list(given_input.shape) == shape
    response = pb.ModelInferResponse(model_name="m", model_version="3", id="7")
    response.outputs.add(name="y", datatype=datatype, shape=shape)
    response.raw_output_contents.append(raw)
    told = json.loads(oip_json.response(response.SerializeToString()))
    flat = np.array(data, object).reshape(-1).tolist()
    (output,) = told["outputs"]
    assert output == {"name": "y", "datatype": datatype, "shape": shape, "data": flat}
    assert told["id"] == "7"


@pytest.mark.parametrize(
    "wrong",
    [
        tensor([1, 2, 3]),
        tensor([1, "2"]),
        tensor([1, None]),
        tensor([1, True]),
        tensor([1, {}]),
        tensor([0, 1], "BOOL"),
        tensor([1, 2], "BYTES"),
        tensor([1, 300], "UINT8"),
        tensor([1, -1], "UINT64"),
        tensor([1, 1.5], "INT64"),
        tensor([1, 2], "COMPLEX"),
        tensor([1, 1e39]),
        tensor(["a", "\ud800"], "BYTES"),
        tensor([1, 2], shape=[-1]),
        tensor(json.loads("[" * 100 + "]" * 100)),
        tensor([1, 2], shape=[True, 2]),
        tensor([1, 2], shape=["2"]),
    ],
)
def test_a_wrong_tensor(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidTensor):
        parsed(wrong)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"inputs": {}}',
        b"[" * 200_000,
        b'{"inputs": [1]}',
        b'{"inputs": [{}]}',
        b'{"inputs": [], "id": 7}',
        b'{"inputs": [], "parameters": {"a": null}}',
        b'{"inputs": [], "parameters": {"a": 9223372036854775808}}',
        b'{"inputs": [], "outputs": [{"name": 1}]}',
        json.dumps({"inputs": [tensor(None)]}).encode(),
        # Halves of surrogate pairs, which JSON can name.
        json.dumps({"inputs": [], "id": "\ud800"}).encode(),
        json.dumps({"inputs": [], "parameters": {"a": "\ud800"}}).encode(),
        json.dumps({"inputs": [], "parameters": {"\ud800": 1}}).encode(),
        json.dumps({"inputs": [], "outputs": [{"name": "\ud800"}]}).encode(),
        json.dumps({"inputs": [tensor([1], "\ud800")]}).encode(),
        json.dumps({"inputs": [tensor([1, 2], parameters={"binary_data_size": 8})]}).encode(),
    ],
)
def test_a_wrong_body(body: bytes) -> None:
    with pytest.raises(InvalidArgument):
        oip_json.request("m", "", body)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=12,
    )
)
def test_any_json_as_data_is_a_message_or_an_error_of_ours(data: Any) -> None:
    for datatype in ("FP32", "INT8", "BYTES", "BOOL"):
        with suppress(ModelyardError):
            parsed(tensor(data, datatype))


def test_parameters_and_outputs() -> None:
    request = parsed(
        parameters={"timeout": 5, "b": True, "s": "t", "d": 0.5},
        outputs=[{"name": "y", "parameters": {"classification": 2}}],
        id="7",
    )
    assert request.parameters["timeout"].int64_param == 5
    assert request.parameters["b"].bool_param is True
    assert request.parameters["s"].string_param == "t"
    assert request.parameters["d"].double_param == 0.5
    assert request.outputs[0].parameters["classification"].int64_param == 2


def test_numbers_that_json_has_not() -> None:
    response = pb.ModelInferResponse(model_name="m")
    response.outputs.add(name="y", datatype="FP32", shape=[2])
    response.raw_output_contents.append(encode(np.array([np.nan, np.inf], np.float32)))
    data = json.loads(oip_json.response(response.SerializeToString()))["outputs"][0]["data"]
    assert np.isnan(data[0]) and data[1] == np.inf
    assert decode("FP32", [2], response.raw_output_contents[0]).size == 2


def test_an_error_has_a_status_of_http() -> None:
    status, body = oip_json.error(ModelNotFound("no m"))
    assert (status, json.loads(body)) == (404, {"error": "no m", "reason": "MODEL_NOT_FOUND"})
    assert oip_json.error(MessageTooLarge("x"))[0] == 413
