"""Tensors: every datatype there and back, and what does not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from modelyard.errors import InvalidTensor
from services.inference.host.tensors import BF16, CONTENTS, DTYPES, Array, Slot, encode

_SHAPES = nps.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
_NUMBERS = sorted(set(DTYPES) - {"BYTES", "BF16"})


def _slot(datatype: str, shape: tuple[int, ...]) -> Slot:
    return Slot("x", "m", datatype, shape)


def _same(left: Array, right: Array) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and encode(left) == encode(right)


@pytest.mark.parametrize("datatype", _NUMBERS)
@given(data=st.data())
def test_raw_numbers_there_and_back(datatype: str, data: st.DataObject) -> None:
    array = data.draw(nps.arrays(DTYPES[datatype], _SHAPES))
    assert _same(_slot(datatype, array.shape).raw(encode(array)), array)


@given(bits=nps.arrays(np.uint16, _SHAPES))
def test_raw_bf16_there_and_back(bits: Array) -> None:
    array = bits.view(BF16)
    assert _same(_slot("BF16", array.shape).raw(encode(array)), array)


@given(data=st.data())
def test_raw_bytes_there_and_back(data: st.DataObject) -> None:
    shape = data.draw(_SHAPES)
    count = int(np.prod(shape))
    texts = data.draw(st.lists(st.text(max_size=6), min_size=count, max_size=count))
    array = np.array([*texts, None], object)[:-1].reshape(shape)
    assert _same(_slot("BYTES", shape).raw(encode(array)), array)


@pytest.mark.parametrize("datatype", sorted(set(CONTENTS) - {"BYTES"}))
@given(data=st.data())
def test_typed_numbers(datatype: str, data: st.DataObject) -> None:
    array = data.draw(
        nps.arrays(DTYPES[datatype], _SHAPES, elements={"allow_nan": False})
        if datatype.startswith("FP")
        else nps.arrays(DTYPES[datatype], _SHAPES)
    )
    assert _same(_slot(datatype, array.shape).typed(array.ravel().tolist()), array)


def test_typed_bytes() -> None:
    assert _slot("BYTES", (2,)).typed([b"a", "é".encode()]).tolist() == ["a", "é"]


def test_raw_is_a_view() -> None:
    raw = np.arange(4, dtype=np.float32).tobytes()
    array = _slot("FP32", (2, 2)).raw(raw)
    assert np.shares_memory(array, np.frombuffer(raw, np.uint8))


def test_true_is_any_byte_but_zero() -> None:
    assert _slot("BOOL", (3,)).raw(b"\x00\x01\x07").tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("datatype", "size"), [("FP32", 15), ("FP32", 17), ("FP16", 0), ("INT8", 5)]
)
def test_wrong_size(datatype: str, size: int) -> None:
    need = 4 * DTYPES[datatype].itemsize
    with pytest.raises(
        InvalidTensor,
        match=rf"byte size mismatch for input 'x' for model 'm'\. Expected {need}, got {size}",
    ):
        _slot(datatype, (4,)).raw(bytes(size))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x01\x00\x00",
        b"\x01\x00\x00\x00a",
        b"\x01\x00\x00\x00a\x02\x00\x00\x00b",
        b"\x01\x00\x00\x00a\x01\x00\x00\x00b\x00",
        b"\x01\x00\x00\x00a\x01\x00\x00\x00b\x00\x00\x00\x00",
        b"\xff\xff\xff\xff\x00\x00\x00\x00",
    ],
)
def test_wrong_bytes(raw: bytes) -> None:
    with pytest.raises(InvalidTensor, match="input byte size mismatch for input 'x'"):
        _slot("BYTES", (2,)).raw(raw)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(InvalidTensor, match=r"element 1 of input 'x' .* is not UTF-8"):
        _slot("BYTES", (2,)).raw(b"\x01\x00\x00\x00a\x01\x00\x00\x00\xff")


def test_wrong_number_of_elements() -> None:
    with pytest.raises(InvalidTensor, match="Expected 3, got 2"):
        _slot("FP32", (3,)).typed([1.0, 2.0])


@pytest.mark.parametrize(
    ("datatype", "value"), [("INT8", 128), ("INT8", -129), ("UINT16", 1 << 16)]
)
def test_element_out_of_range(datatype: str, value: int) -> None:
    with pytest.raises(InvalidTensor, match=f"out of the range of {datatype}"):
        _slot(datatype, (1,)).typed([value])
