"""Constants become the tensors that a signature asks for, or name the output that does not fit."""

import sys

import numpy as np
import pytest

from modelyard.catalog import Constant, Signature, Tensor
from modelyard.catalog.constant import response
from modelyard.client.codec import decode
from modelyard.errors import InvalidRoute
from modelyard.inference.v2 import open_inference_pb2 as oip


def made(outputs: dict, *tensors: Tensor, rows: int = 1) -> oip.ModelInferResponse:
    payload = response("digits", Constant(outputs), Signature((), tensors), rows)
    return oip.ModelInferResponse.FromString(payload)


def one(value, datatype: str, shape: tuple, rows: int = 1) -> np.ndarray:
    message = made({"y": value}, Tensor("y", datatype, shape), rows=rows)
    output = message.outputs[0]
    assert (output.name, output.datatype) == ("y", datatype)
    return decode(datatype, output.shape, message.raw_output_contents[0])


def test_a_response_names_its_model_and_holds_the_outputs_in_their_order() -> None:
    tensors = Tensor("a", "FP32", ("n",)), Tensor("b", "INT64", ("n",))
    message = made({"b": [1.0], "a": [0.5]}, *tensors)
    assert message.model_name == "digits"
    assert [output.name for output in message.outputs] == ["b", "a"]
    assert len(message.raw_output_contents) == 2
    assert not message.outputs[0].HasField("contents")


def test_not_every_output_is_needed() -> None:
    message = made({"b": [1.0]}, Tensor("a", "FP32", ("n",)), Tensor("b", "FP32", ("n",)))
    assert [output.name for output in message.outputs] == ["b"]


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("FP32", 0.5),
        ("FP64", 0.5),
        ("FP16", 0.5),
        ("BF16", 0.5),
        ("INT8", -3.0),
        ("INT16", -3.0),
        ("INT32", -3.0),
        ("INT64", -3.0),
        ("UINT8", 3.0),
        ("UINT16", 3.0),
        ("UINT32", 3.0),
        ("UINT64", 3.0),
        ("BOOL", True),
    ],
)
def test_every_datatype(datatype: str, value) -> None:
    assert one([value], datatype, ("n",)).astype(type(value)).tolist() == [value]


def test_texts() -> None:
    assert one([["a", "ß"]], "BYTES", ("n", 2)).tolist() == [[b"a", "ß".encode()]]


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_each_row_gets_a_list_that_lacks_the_first_dimension(rows: int) -> None:
    assert one([0.25, 0.75], "FP32", ("n", 2), rows).tolist() == [[0.25, 0.75]] * rows
    assert one(0.5, "FP32", ("",), rows).tolist() == [0.5] * rows
    assert one("none", "BYTES", ("n",), rows).tolist() == [b"none"] * rows


def test_a_whole_list_stays_as_it_is() -> None:
    assert one([[0.0], [1.0]], "FP32", ("n", 1), rows=5).tolist() == [[0.0], [1.0]]
    assert one([0.0, 1.0], "FP32", (2,), rows=5).tolist() == [0.0, 1.0]
    assert one(0.5, "FP32", (), rows=5).tolist() == 0.5
    assert one([], "FP32", ("n",), rows=5).tolist() == []


def test_later_dimensions_that_vary_take_any_size() -> None:
    assert one([[1.0, 2.0, 3.0]], "FP32", ("n", "k"), rows=2).shape == (1, 3)
    assert one([1.0, 2.0, 3.0], "FP32", ("n", "k"), rows=2).shape == (2, 3)


@pytest.mark.parametrize(
    ("outputs", "complaint"),
    [
        pytest.param({"z": 0.5}, r"output 'z': the model has y", id="name"),
        pytest.param({"y": [0.5, 0.5, 0.5]}, r"'y': its shape is \[1, 3\], the.*2\]", id="width"),
        pytest.param({"y": 0.5}, r"'y': its shape is \[\], the model's \['n', 2\]", id="too flat"),
        pytest.param({"y": [[[0.5]]]}, r"'y': its shape is \[1, 1, 1\]", id="too deep"),
        pytest.param({"y": ["half", "half"]}, r"'y': not FP32", id="datatype"),
        pytest.param({"y": [[0.5], [0.5, 0.5]]}, r"'y': not FP32", id="ragged"),
    ],
)
def test_what_does_not_fit_names_the_output(outputs: dict, complaint: str) -> None:
    with pytest.raises(InvalidRoute, match=complaint) as refused:
        made(outputs, Tensor("y", "FP32", ("n", 2)))
    assert refused.value.metadata == {"output": next(iter(outputs))}


def test_a_fixed_first_dimension_is_not_repeated() -> None:
    with pytest.raises(InvalidRoute, match=r"its shape is \[2\], the model's \[3, 2\]"):
        one([0.5, 0.5], "FP32", (3, 2), rows=3)


@pytest.mark.parametrize(
    ("datatype", "value"), [("INT64", "many"), ("FP32", "1,5"), ("INT64", float("nan"))]
)
def test_a_value_out_of_its_type_is_refused(datatype: str, value) -> None:
    with pytest.raises(InvalidRoute, match=f"'y': not {datatype}"):
        one([value], datatype, ("n",))


def test_an_unknown_datatype_is_refused() -> None:
    with pytest.raises(InvalidRoute, match="there is no datatype 'COMPLEX'"):
        one([1.0], "COMPLEX", ("n",))


def test_a_fraction_is_no_whole_number() -> None:
    with pytest.raises(InvalidRoute):
        one([0.5], "INT64", ("n",))


def test_a_text_is_no_boolean() -> None:
    with pytest.raises(InvalidRoute):
        one(["no"], "BOOL", ("n",))


@pytest.mark.parametrize("value", [[0.5, 0.5], [["a"], ["b", "c"]]])
def test_what_is_no_text_is_refused_as_a_fault_of_the_route(value) -> None:
    with pytest.raises(InvalidRoute) as refused:
        one(value, "BYTES", ("n", 2))
    assert refused.value.metadata == {"output": "y"}


def test_bf16_takes_two_bytes_without_ml_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    message = made({"y": [0.5]}, Tensor("y", "BF16", ("n",)))
    assert len(message.raw_output_contents[0]) == 2
