"""Tensors of the Open Inference Protocol as numpy arrays, and back.

A raw tensor is its elements in row-major order, little-endian; an element of BYTES is a
4-byte little-endian length and that many bytes. BYTES become `str` here, because a string
of ONNX is UTF-8 text; BF16 is `ml_dtypes.bfloat16`.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from modelyard.errors import InvalidTensor

Array = NDArray[Any]

BYTES = "BYTES"
BF16 = np.dtype(ml_dtypes.bfloat16)

# Every datatype of the protocol, and how numpy names it.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": BF16,
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    BYTES: np.dtype(object),
}

# The field of InferTensorContents that carries a datatype; FP16 and BF16 travel raw only.
CONTENTS: dict[str, str] = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}

# What the elements of each field are on the wire; narrower datatypes share a wider field.
_CARRIERS = {
    "bool_contents": np.dtype("?"),
    "int_contents": np.dtype("i4"),
    "int64_contents": np.dtype("i8"),
    "uint_contents": np.dtype("u4"),
    "uint64_contents": np.dtype("u8"),
    "fp32_contents": np.dtype("f4"),
    "fp64_contents": np.dtype("f8"),
}

_LENGTH = struct.Struct("<I")


class Slot:
    """Where one input of a request goes: its name, datatype and shape, checked beforehand.

    Attributes:
        name: The input's name.
        model: The model's name, for the texts of errors.
        datatype: As the protocol names it.
        shape: No wildcards; every dimension at least 0.
        count: How many elements the shape has.
        size: How many bytes the raw form takes; 0 for BYTES, whose size is its own.
    """

    __slots__ = ("count", "datatype", "dtype", "model", "name", "shape", "size")

    def __init__(self, name: str, model: str, datatype: str, shape: tuple[int, ...]) -> None:
        self.name = name
        self.model = model
        self.datatype = datatype
        self.dtype = DTYPES[datatype]
        self.shape = shape
        self.count = math.prod(shape)
        self.size = 0 if datatype == BYTES else self.count * self.dtype.itemsize

    def raw(self, raw: bytes) -> Array:
        """The array of a raw tensor: a read-only view of `raw` wherever that can be.

        Raises:
            InvalidTensor: `raw` has not the bytes that the shape needs.
        """
        if self.datatype == BYTES:
            return _object_array(self._strings(raw), self.shape)
        if len(raw) != self.size:
            raise self._size_mismatch(self.size, len(raw))
        if not self.count:
            return np.empty(self.shape, self.dtype)
        if self.datatype == "BOOL":
            # Any byte but 0 is true; a numpy bool of another byte than 0 and 1 misbehaves.
            return np.not_equal(np.frombuffer(raw, np.uint8), 0).reshape(self.shape)
        return np.frombuffer(raw, self.dtype).reshape(self.shape)

    def typed(self, values: Sequence[Any]) -> Array:
        """The array of a tensor that came as typed contents.

        Raises:
            InvalidTensor: The number of elements is wrong, or one is out of its type's range.
        """
        if len(values) != self.count:
            raise InvalidTensor(
                f"unexpected number of elements for input '{self.name}' for model"
                f" '{self.model}'. Expected {self.count}, got {len(values)}",
                input=self.name,
            )
        if self.datatype == BYTES:
            return _object_array([self._text(i, v) for i, v in enumerate(values)], self.shape)
        wide = np.array(values, _CARRIERS[CONTENTS[self.datatype]])
        if wide.dtype != self.dtype and wide.size:
            limits = np.iinfo(self.dtype)
            if int(wide.min()) < limits.min or int(wide.max()) > limits.max:
                raise InvalidTensor(
                    f"an element of input '{self.name}' for model '{self.model}'"
                    f" is out of the range of {self.datatype}",
                    input=self.name,
                )
        return wide.astype(self.dtype, copy=False).reshape(self.shape)

    def array(self, given: Array) -> Array:
        """The array of a tensor that never was serialized: `given` itself wherever that can be.

        Raises:
            InvalidTensor: An element of BYTES is no text.
        """
        if self.datatype == BYTES:
            elements = given.astype(object).ravel().tolist()
            texts = [v if isinstance(v, str) else self._text(i, v) for i, v in enumerate(elements)]
            return _object_array(texts, self.shape)
        # The other byte order is the same datatype.
        return given if given.dtype == self.dtype else given.astype(self.dtype)

    def _strings(self, raw: bytes) -> list[str]:
        texts: list[str] = []
        at, end = 0, len(raw)
        unpack = _LENGTH.unpack_from
        while at + 4 <= end and len(texts) < self.count:
            stop = at + 4 + unpack(raw, at)[0]
            if stop > end:
                break
            texts.append(self._text(len(texts), raw[at + 4 : stop]))
            at = stop
        if at != end or len(texts) != self.count:
            raise InvalidTensor(
                f"input byte size mismatch for input '{self.name}' for model '{self.model}'."
                f" Expected {self.count} elements of BYTES in {end} bytes,"
                f" got {len(texts)} in {at}",
                input=self.name,
            )
        return texts

    def _text(self, index: int, value: Any) -> str:
        if not isinstance(value, bytes):
            raise InvalidTensor(
                f"element {index} of input '{self.name}' for model '{self.model}' is neither str"
                f" nor bytes but {type(value).__name__}",
                input=self.name,
            )
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InvalidTensor(
                f"element {index} of input '{self.name}' for model '{self.model}' is not UTF-8,"
                " as the strings of ONNX must be",
                input=self.name,
            ) from None

    def _size_mismatch(self, expected: int, got: int) -> InvalidTensor:
        return InvalidTensor(
            f"input byte size mismatch for input '{self.name}' for model '{self.model}'."
            f" Expected {expected}, got {got}",
            input=self.name,
        )


def _encoded(element: str | bytes) -> bytes:
    return element.encode() if isinstance(element, str) else element


def _object_array(texts: Sequence[str | bytes], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(texts), object)
    array[:] = texts
    return array.reshape(shape)


def encode(array: Array) -> bytes:
    """The raw form of an array; strings and bytes become BYTES."""
    if array.dtype.kind in "OSU":
        return encode_bytes(array.ravel().tolist())
    return array.tobytes()


def as_given(array: Array) -> Array:
    """An output as its caller sees it: read-only, and texts as objects of `bytes`."""
    if array.dtype.kind in "OSU":
        array = _object_array([_encoded(v) for v in array.ravel().tolist()], array.shape)
    array.setflags(write=False)
    return array


def encode_bytes(elements: Iterable[str | bytes]) -> bytes:
    """The raw form of BYTES elements, in their order."""
    pack = _LENGTH.pack
    parts: list[bytes] = []
    for element in elements:
        content = _encoded(element)
        parts.append(pack(len(content)))
        parts.append(content)
    return b"".join(parts)
