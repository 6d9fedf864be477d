"""Slices part the traffic row by row; losses judge rows by the truth."""

import numpy as np
import pytest

from modelyard.catalog import Tensor
from modelyard.errors import InvalidArgument
from services.shadow import losses, slices
from services.shadow.slices import MOST_VALUES, OTHER, Parts

INPUTS = {
    "age": np.float32([10, 18, 29.5, 70, np.nan]),
    "x": np.float32([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]),
    "word": np.array([b"a", b"b", b"a", b"c", b"a"], object),
}
OUTPUTS = {"label": np.int64([1, 0, 1, 1, 2])}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metadata:x-region", ["eu"] * 5),
        ("metadata:x-other", [None] * 5),
        ("input:age@18,30,65", ["< 18", "[18, 30)", "[18, 30)", ">= 65", None]),
        ("input:x[1]@4", ["< 4", "< 4", ">= 4", ">= 4", ">= 4"]),
        ("input:x[0]", ["0", "2", "4", "6", "8"]),
        ("input:x[7]", [None] * 5),
        ("input:x", [None] * 5),
        ("input:word", ["a", "b", "a", "c", "a"]),
        ("input:word@3", [None] * 5),
        ("input:absent", [None] * 5),
        ("output:label", ["1", "0", "1", "1", "2"]),
        ("rows", ["4-7"] * 5),
    ],
)
def test_where_rows_lie(text, expected):
    assert slices.parse(text).values({"x-region": "eu"}, INPUTS, OUTPUTS, 5) == expected


@pytest.mark.parametrize(
    "text",
    ["", "region", "metadata:", "input:", "input:x@", "input:x@3,1", "input:x@a", "input:x[a]"],
)
def test_what_is_no_slice_is_refused(text):
    with pytest.raises(InvalidArgument, match="slices"):
        slices.parse(text)


def test_parts_keep_their_order_and_are_bounded():
    parts = Parts()
    orders = [parts.order("metadata:user", str(n))[1] for n in range(MOST_VALUES)]
    assert orders == list(range(1, MOST_VALUES + 1))
    assert parts.order("metadata:user", "late") == (OTHER, MOST_VALUES + 1)
    assert parts.order("metadata:user", "later") == (OTHER, MOST_VALUES + 1)
    assert parts.order("rows", "1") == ("1", MOST_VALUES + 2)
    assert parts.order("metadata:user", "3") == ("3", 4)
    again = Parts(parts.known)
    assert again.known == parts.known
    assert again.order("metadata:user", "new") == (OTHER, MOST_VALUES + 1)


@pytest.mark.parametrize(
    ("tree", "output", "truths", "expected"),
    [
        ({"kind": "zero_one"}, np.int64([7, 3]), [7.0, 4.0], [0, 1]),
        ({"kind": "zero_one"}, np.array([b"cat", b"dog"], object), ["cat", "cat"], [0, 1]),
        ({"kind": "zero_one"}, np.int64([[1, 2], [3, 4]]), [[1, 2], [3, 5]], [0, 1]),
        ({"kind": "brier"}, np.float32([[1, 0], [0.5, 0.5], [0, 1]]), [0, 0, 0], [0, 0.25, 1]),
        ({"kind": "brier"}, np.float32([[1, 0]]), [5], [None]),
        ({"kind": "brier"}, np.float32([0.5, 1]), [1, 0], [0.25, 1]),
        ({"kind": "absolute", "scale": 10}, np.float32([5, 100, np.nan]), [0, 0, 0], [0.5, 1, 1]),
        ({"kind": "squared", "scale": 10}, np.float32([5, 100]), [0, 0], [0.25, 1]),
        ({"kind": "absolute"}, np.float32([1, 1]), ["x", None], [None, None]),
        ({"kind": "absolute"}, np.float32([1, 1]), [1], [0, None]),
    ],
)
def test_how_wrong_rows_are(tree, output, truths, expected):
    assert losses.judge(losses.parse("y", tree), output, truths) == pytest.approx(expected)


def test_a_loss_is_found_from_the_signature():
    assert losses.choose(Tensor("label", "INT64", ("N",))).kind == "zero_one"
    assert losses.choose(Tensor("probabilities", "FP32", ("N", 3))).kind == "brier"
    assert losses.choose(Tensor("price", "FP32", ("N",))).kind == "absolute"
    with pytest.raises(InvalidArgument, match=r"losses\.y\.scale"):
        losses.parse("y", {"kind": "absolute", "scale": 0})
