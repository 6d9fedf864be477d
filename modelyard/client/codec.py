"""numpy arrays to and from the raw tensors of the Open Inference Protocol.

Raw means little-endian, row-major and unpadded. A BYTES element is its length in 4 bytes and then
its bytes. BF16 is `ml_dtypes.bfloat16` where that package is there, and is widened to float32
(which loses nothing) where it is not.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelyard.errors import InvalidTensor

Array: TypeAlias = NDArray[Any]

# Those of a fixed size.
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
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_DATATYPE = {dtype: datatype for datatype, dtype in DTYPES.items()}
_LENGTH = struct.Struct("<I")

DATATYPES = (*DTYPES, "BF16", "BYTES")


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's type; raises InvalidTensor where it has none."""
    known = _DATATYPE.get(array.dtype)
    if known is not None:
        return known
    if array.dtype.kind in "OSUT":
        return "BYTES"
    if array.dtype.name == "bfloat16":
        return "BF16"
    try:
        return _DATATYPE[array.dtype.newbyteorder("<")]
    except KeyError:
        raise InvalidTensor(
            f"the protocol has no datatype for numpy's {array.dtype}; it has {', '.join(DATATYPES)}"
        ) from None


def cast(values: ArrayLike, datatype: str) -> Array:
    """Makes an array of a datatype out of any values, such as a list.

    Raises:
        InvalidTensor: The values do not fit, or there is no such datatype.
    """
    try:
        if datatype == "BYTES":
            return np.asarray(values, dtype=object)
        if datatype == "BF16":
            return np.asarray(values, dtype=_bfloat16() or np.float32)
        return np.asarray(values, dtype=DTYPES[datatype])
    except KeyError:
        raise InvalidTensor(f"there is no datatype {datatype!r}") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidTensor(f"not {datatype}: {error}") from None


def encode(array: Array) -> bytes:
    """An array's elements as raw bytes; raises InvalidTensor where its type has no datatype."""
    datatype = datatype_of(array)
    if datatype == "BYTES":
        return _encode_bytes(array)
    if datatype == "BF16":
        return np.ascontiguousarray(array).view(np.uint16).astype("<u2", copy=False).tobytes()
    return array.astype(DTYPES[datatype], order="C", copy=False).tobytes()


def decode(datatype: str, shape: Sequence[int], raw: bytes) -> Array:
    """Raw bytes as an array of a shape: a read-only view where no conversion is needed.

    BYTES gives an object array of `bytes`.

    Raises:
        InvalidTensor: The bytes do not fill the shape, or there is no such datatype.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return _shaped(_decode_bytes(raw, count), shape)
    dtype = np.dtype("<u2") if datatype == "BF16" else DTYPES.get(datatype)
    if dtype is None:
        raise InvalidTensor(f"there is no datatype {datatype!r}")
    if len(raw) != count * dtype.itemsize:
        raise InvalidTensor(
            f"{datatype} of shape {list(shape)} takes {count * dtype.itemsize} bytes,"
            f" not {len(raw)}"
        )
    array = _shaped(np.frombuffer(raw, dtype), shape)
    return _from_bfloat16(array) if datatype == "BF16" else array


def decode_typed(datatype: str, shape: Sequence[int], elements: Iterable[Any]) -> Array:
    """The elements of the protocol's typed contents as an array of a shape."""
    values = list(elements)
    if len(values) != math.prod(shape):
        raise InvalidTensor(f"{len(values)} elements do not fill the shape {list(shape)}")
    if datatype == "BYTES":
        return _shaped(_objects(values), shape)
    return _shaped(cast(values, datatype), shape)


def _shaped(array: Array, shape: Sequence[int]) -> Array:
    try:
        return array.reshape(shape)
    except ValueError:
        # Negative dimensions, whose product may be the number of elements.
        raise InvalidTensor(f"{list(shape)} is no shape") from None


def _encode_bytes(array: Array) -> bytes:
    parts: list[bytes] = []
    for element in array.astype(object).reshape(-1):
        match element:
            case str():
                data = element.encode()
            case bytes():
                data = element
            case _:
                raise InvalidTensor(
                    f"an element of BYTES is str or bytes, not {type(element).__name__}"
                )
        parts += _LENGTH.pack(len(data)), data
    return b"".join(parts)


def _decode_bytes(raw: bytes, count: int) -> Array:
    elements: list[bytes] = []
    position = 0
    while position < len(raw):
        start = position + _LENGTH.size
        if start > len(raw):
            raise InvalidTensor("a BYTES tensor ends within a length")
        position = start + _LENGTH.unpack_from(raw, position)[0]
        if position > len(raw):
            raise InvalidTensor("a BYTES tensor ends within an element")
        elements.append(raw[start:position])
    if len(elements) != count:
        raise InvalidTensor(f"a BYTES tensor holds {len(elements)} elements, not {count}")
    return _objects(elements)


def _objects(values: Sequence[object]) -> Array:
    # np.array would look into the elements and may make a wider array of them.
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _bfloat16() -> np.dtype[Any] | None:
    try:
        import ml_dtypes
    except ImportError:
        return None
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def _from_bfloat16(bits: Array) -> Array:
    dtype = _bfloat16()
    if dtype is not None:
        return bits.view(dtype)
    return (bits.astype(np.uint32) << 16).view(np.float32)
