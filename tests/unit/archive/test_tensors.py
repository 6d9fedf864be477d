"""Tensors of many payloads at once are what a client reads of each."""

import random

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelyard.archive.schema import TENSOR
from modelyard.archive.tensors import MOST_ELEMENTS, Side, tensors
from modelyard.client.codec import datatype_of
from modelyard.client.inference import inputs_of
from modelyard.errors import InvalidTensor
from modelyard.inference.v2 import open_inference_pb2 as oip
from tests.kit.events import request, response

FIXED = ("?", "u1", "<u2", "<u4", "<u8", "i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8")


def read(*payloads, side=Side.INPUTS):
    column = tensors(pa.array(payloads, pa.binary()), side)
    assert column.type == pa.list_(TENSOR)
    column.validate(full=True)
    return column.to_pylist()


def expected(payload):
    """By way of the client, one tensor after the other."""
    if payload is None:
        return None
    try:
        arrays = inputs_of(oip.ModelInferRequest.FromString(payload))
    except (DecodeError, InvalidTensor):
        return None
    return [
        {
            "name": name,
            "datatype": datatype_of(array),
            "shape": list(array.shape),
            "numbers": None
            if array.dtype == object
            else [float(element) for element in array.reshape(-1)],
            "texts": [element.decode(errors="replace") for element in array.reshape(-1)]
            if array.dtype == object
            else None,
        }
        for name, array in arrays.items()
    ]


arrays = st.sampled_from(FIXED).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        elements={"allow_nan": False} if "f" in dtype else None,
    )
)
texts = st.lists(st.binary(max_size=4), max_size=3).map(lambda found: np.array(found, object))
payloads = st.one_of(
    st.none(),
    st.just(b"\xff\xff"),
    st.dictionaries(st.sampled_from("abc"), arrays, max_size=3).map(lambda a: request(**a)),
    st.dictionaries(st.sampled_from("abc"), st.one_of(arrays, texts), max_size=3).map(
        lambda a: request(**a)
    ),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(payloads, max_size=6))
def test_many_at_once_are_as_each_by_itself(held) -> None:
    for payload, found in zip(held, read(*held), strict=True):
        assert found == expected(payload)


@given(st.binary(max_size=12))
@example(b"\xf3\x00$")  # A group that another one's end closes, in what is passed over.
def test_bytes_that_are_no_message_hold_no_tensor(payload) -> None:
    (found,) = read(payload)
    assert found == expected(payload) or not found


def test_payloads_that_were_changed_at_random_are_read_as_far_as_they_can_be() -> None:
    rng = random.Random(3)
    whole = request(a=np.float32([[1, 2]]), b=np.int64([3]), c=np.array([b"t"], object))
    for _ in range(3_000):
        spoilt = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
        (found,), was = read(bytes(spoilt)), expected(bytes(spoilt))
        # What a client cannot read for a part that the archive passes over may be there none the
        # less; what it can is the same.
        assert found == was or was is None or str(found) == str(was)


def test_what_does_not_fit_together_is_null_and_harms_no_other() -> None:
    good = request(x=np.float32([1, 2]))
    short = oip.ModelInferRequest.FromString(good)
    short.raw_input_contents[0] = b"123"
    absent = oip.ModelInferRequest.FromString(good)
    absent.inputs.add(name="y", datatype="FP32", shape=[1])
    unknown = oip.ModelInferRequest.FromString(good)
    unknown.inputs[0].datatype = "FP8"
    spoilt = [m.SerializeToString() for m in (short, absent, unknown)]
    found = read(good, *spoilt, b"\xff\xff", None, good)
    assert found == [expected(good), None, None, None, None, None, expected(good)]


@pytest.mark.parametrize(
    ("shape", "raw"),
    [([-2, -1], 8), ([0, -1], 0), ([2**32, 2**32], 0), ([2**62, 4], 0), ([2**62] * 20 + [0], 4)],
)
def test_a_shape_that_is_none_is_null(shape, raw) -> None:
    message = oip.ModelInferRequest()
    message.inputs.add(name="x", datatype="FP32", shape=shape)
    message.raw_input_contents.append(b"\0" * raw)
    assert read(message.SerializeToString(), request()) == [None, []]


def test_typed_contents_are_read_too() -> None:
    message = oip.ModelInferRequest()
    message.inputs.add(name="x", datatype="INT32", shape=[2]).contents.int_contents[:] = [1, -2]
    (found,) = read(message.SerializeToString())
    assert found[0]["numbers"] == [1.0, -2.0]


def test_the_elements_of_large_tensors_are_in_the_payload_only() -> None:
    large, small = np.zeros(MOST_ELEMENTS + 1, "u1"), np.ones(MOST_ELEMENTS, "u1")
    text = np.full(MOST_ELEMENTS + 1, b"t", object)
    ((first, second), (third,)) = read(request(a=large, b=small), request(c=text))
    assert (first["numbers"], first["shape"]) == (None, [MOST_ELEMENTS + 1])
    assert second["numbers"] == [1.0] * MOST_ELEMENTS
    assert (third["texts"], third["numbers"]) == (None, None)


def test_answers_have_theirs() -> None:
    (found,) = read(response(2, y=np.float64([0.5])), side=Side.OUTPUTS)
    assert [(t["name"], t["numbers"]) for t in found] == [("y", [0.5])]


def test_none_are_none() -> None:
    assert read() == []
    assert read(None) == [None]
