"""Arrays to raw tensors and back."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelyard.client.codec import DATATYPES, cast, datatype_of, decode, decode_typed, encode
from modelyard.errors import InvalidTensor

NUMERIC = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BF16": ml_dtypes.bfloat16,
}


def test_every_datatype_is_covered() -> None:
    assert {*NUMERIC, "BYTES"} == set(DATATYPES)


@pytest.mark.parametrize("datatype", NUMERIC)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_numbers_go_and_come_back(datatype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(NUMERIC[datatype])

    again = decode(datatype, shape, encode(array))

    assert datatype_of(array) == datatype
    assert again.dtype == array.dtype
    assert again.shape == shape
    assert again.tobytes() == array.tobytes()


@given(hnp.arrays(np.dtype(">f8"), hnp.array_shapes(min_dims=0, max_dims=3)))
def test_the_wire_is_little_endian(array: np.ndarray) -> None:
    again = decode("FP64", array.shape, encode(array))

    np.testing.assert_array_equal(again, array)


def test_the_wire_is_row_major() -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3))

    assert encode(array.T) == np.ascontiguousarray(array.T).tobytes()
    assert encode(array) == bytes.fromhex("000000000100000002000000030000000400000005000000")


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_bytes_go_and_come_back(elements: list[bytes]) -> None:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements

    again = decode("BYTES", array.shape, encode(array))

    assert again.tolist() == elements


@pytest.mark.parametrize(
    "array",
    [
        np.array([["ä", "b"]]),
        np.array([["ä", "b"]], dtype=object),
        np.array([["ä".encode(), b"b"]]),
        # numpy 2 brings a string type of its own; the floor is before it.
        *([np.array([["ä", "b"]], dtype="T")] if hasattr(np.dtypes, "StringDType") else []),
    ],
    ids=lambda array: array.dtype.kind,
)
def test_strings_are_bytes(array: np.ndarray) -> None:
    assert datatype_of(array) == "BYTES"
    assert decode("BYTES", (1, 2), encode(array)).tolist() == [["ä".encode(), b"b"]]


def test_a_type_that_the_protocol_lacks() -> None:
    with pytest.raises(InvalidTensor, match="no datatype for numpy's complex128"):
        encode(np.array([1j]))
    with pytest.raises(InvalidTensor, match="str or bytes, not int"):
        encode(np.array([1], dtype=object))


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "text"),
    [
        ("FP32", (2,), b"1234", r"FP32 of shape \[2\] takes 8 bytes, not 4"),
        ("FP8", (1,), b"1", "no datatype 'FP8'"),
        ("BYTES", (1,), b"\1\0", "ends within a length"),
        ("BYTES", (1,), b"\2\0\0\0a", "ends within an element"),
        ("BYTES", (2,), b"\1\0\0\0a", "holds 1 elements, not 2"),
        ("FP32", (-2, -1), b"12345678", r"\[-2, -1\] is no shape"),
        ("FP32", (0, -1), b"", r"\[0, -1\] is no shape"),
        ("BYTES", (-1, -1), b"\1\0\0\0a", r"\[-1, -1\] is no shape"),
    ],
)
def test_what_does_not_decode(datatype: str, shape: tuple[int, ...], raw: bytes, text: str) -> None:
    with pytest.raises(InvalidTensor, match=text):
        decode(datatype, shape, raw)


def test_casts() -> None:
    assert cast([[1, 2]], "FP32").dtype == np.float32
    assert cast(["a"], "BYTES").dtype == object
    with pytest.raises(InvalidTensor, match="not INT64"):
        cast(["a"], "INT64")
    with pytest.raises(InvalidTensor, match="no datatype 'FP8'"):
        cast([1], "FP8")


def test_typed_contents() -> None:
    assert decode_typed("INT8", (2,), [1, 2]).dtype == np.int8
    assert decode_typed("BYTES", (1, 1), [b"a"]).tolist() == [[b"a"]]
    with pytest.raises(InvalidTensor, match="3 elements"):
        decode_typed("INT8", (2,), [1, 2, 3])


def test_bfloat16_without_its_package_is_widened() -> None:
    program = """
import sys
sys.modules["ml_dtypes"] = None
from modelyard.client.codec import decode
array = decode("BF16", (2,), bytes.fromhex("803f20c0"))
assert array.dtype == "float32" and array.tolist() == [1.0, -2.5], array
"""
    subprocess.run([sys.executable, "-c", program], check=True)
