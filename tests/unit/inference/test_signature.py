"""Requests against a signature."""

import pytest

from modelyard.errors import InvalidTensor
from services.inference.host.signature import Head, Signature, Tensor

_SIGNATURE = Signature(
    inputs=(
        Tensor("x", "FP32", ("n", 3)),
        Tensor("y", "INT64", ("n", None)),
        Tensor("b", "FP32", (3,), optional=True),
    ),
    outputs=(Tensor("z", "FP32", ("n",)),),
)
_X: Head = ("x", "FP32", (2, 3))
_Y: Head = ("y", "INT64", (2, 7))


@pytest.mark.parametrize(
    "heads",
    [
        [_X, _Y],
        [_Y, _X],
        [_X, _Y, ("b", "FP32", (3,))],
        [("x", "FP32", (0, 3)), ("y", "INT64", (0, 0))],
    ],
)
def test_what_fits(heads: list[Head]) -> None:
    slots = _SIGNATURE.check("m", heads)
    assert [(s.name, s.datatype, s.shape) for s in slots] == heads


@pytest.mark.parametrize(
    ("heads", "text"),
    [
        ([_X, _Y, ("q", "FP32", (1,))], "unexpected inference input 'q' for model 'm'"),
        ([_X], "expected 2 inputs but got 1 inputs for model 'm'; missing 'y'"),
        ([_X, _X, _Y], "expected 2 inputs but got 3 inputs for model 'm'"),
        (
            [("x", "FP32", (2, 4)), _Y],
            "unexpected shape for input 'x' for model 'm'. Expected [2,3], got [2,4].",
        ),
        (
            [("x", "FP32", (3,)), _Y],
            "unexpected shape for input 'x' for model 'm'. Expected [-1,3], got [3].",
        ),
        (
            [_X, ("y", "INT64", (5, 7))],
            "unexpected shape for input 'y' for model 'm'. Expected [2,-1], got [5,7].",
        ),
        (
            [("x", "FP32", (-1, 3)), _Y],
            "unexpected shape for input 'x' for model 'm'. Expected [-1,3], got [-1,3].",
        ),
        (
            [("x", "FP64", (2, 3)), _Y],
            "unexpected datatype 'FP64' for input 'x' for model 'm', expected 'FP32'",
        ),
        ([("x", "FLOAT", (2, 3)), _Y], "unknown datatype 'FLOAT' for input 'x' for model 'm'"),
    ],
)
def test_what_does_not(heads: list[Head], text: str) -> None:
    with pytest.raises(InvalidTensor) as caught:
        _SIGNATURE.check("m", heads)
    assert caught.value.message == text


def test_no_rank_accepts_any_shape() -> None:
    anything = Signature((Tensor("x", "FP32", ()),), ())
    for shape in ((), (3,), (2, 2)):
        assert anything.check("m", [("x", "FP32", shape)])[0].shape == shape


def test_dims_and_batch() -> None:
    assert _SIGNATURE.inputs[1].dims == (-1, -1)
    assert _SIGNATURE.batch_symbol is None
    batched = Signature((Tensor("x", "FP32", ("n", 3)),), (Tensor("z", "FP32", ("n",)),))
    assert batched.batch_symbol == "n"
    unnamed = Signature((Tensor("x", "FP32", (None, 3)),), (Tensor("z", "FP32", (None,)),))
    assert unnamed.batch_symbol is None
