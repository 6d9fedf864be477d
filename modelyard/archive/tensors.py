"""The tensors of serialized requests and answers, as a column of the archive. Pure.

Nearly all are numbers in raw contents, and those are read for all payloads at once. Whatever else
there may be (texts, typed contents, what does not fit together) is read one payload after the
other, as a client reads it.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from ptars import HandlerPool

from modelyard.archive.schema import TENSOR
from modelyard.archive.v1 import tensors_pb2 as pb
from modelyard.client.codec import DTYPES, Array, datatype_of
from modelyard.client.inference import inputs_of, outputs_of
from modelyard.errors import InvalidTensor
from modelyard.inference.v2 import open_inference_pb2 as oip

# Elements of a tensor that are written out as numbers or texts; the bytes of larger ones are in
# `request` and `response`, as all are.
MOST_ELEMENTS = 4096

_Mask: TypeAlias = NDArray[np.bool_]
_Indices: TypeAlias = NDArray[np.int64]

_POOL = HandlerPool([pb.DESCRIPTOR])
_DATATYPES = pa.array(list(DTYPES), pa.string())
_SIZES = np.array([dtype.itemsize for dtype in DTYPES.values()])


class Side(Enum):
    """Whose tensors: what is read of a message, the whole of it, and how a client reads it."""

    INPUTS = (pb.Inputs, oip.ModelInferRequest, inputs_of)
    OUTPUTS = (pb.Outputs, oip.ModelInferResponse, outputs_of)

    def __init__(
        self, part: Any, whole: Any, arrays_of: Callable[[Any], Mapping[str, Array]]
    ) -> None:
        self.columns = _POOL.get_for_message(part.DESCRIPTOR).array_to_record_batch
        self.whole = whole.FromString
        self.arrays_of = arrays_of


def tensors(payloads: pa.BinaryArray, side: Side) -> pa.ListArray:
    """A list of tensors (`schema.TENSOR`) for each payload.

    Args:
        payloads: Serialized requests, or answers, or nulls.
        side: Which.

    Returns:
        Null where a payload is, or cannot be read: its bytes are kept, whatever they are.
    """
    valid = _mask(payloads.is_valid())
    present, nulls = np.flatnonzero(valid), np.flatnonzero(~valid)
    payloads = payloads.drop_null()
    plain, read = _plain(payloads, side)
    others = payloads.filter(pa.array(~plain)).to_pylist()
    return _ordered(
        (present[plain], read),
        (present[~plain], pa.array([_one(one, side) for one in others], pa.list_(TENSOR))),
        (nulls, pa.nulls(len(nulls), pa.list_(TENSOR))),
    )


class _Flat(NamedTuple):
    """Tensors of many payloads, one after the other.

    Attributes:
        rows: The payload of each.
        columns: What each says of itself.
        raw: The bytes of each; null for none.
        kinds: The place of its datatype among `DTYPES`; -1 for another one.
        elements: How many its shape has; -1 for a shape that is none.
    """

    rows: _Indices
    columns: pa.StructArray
    raw: pa.BinaryArray
    kinds: _Indices
    elements: NDArray[np.float64]

    def fit(self) -> _Mask:
        """Which are numbers in raw contents that fill their shapes."""
        length = pc.binary_length(self.raw).fill_null(-1).to_numpy()
        size = self.elements * _SIZES[self.kinds]
        found: _Mask = (self.kinds >= 0) & (self.elements >= 0) & (length == size)
        return found

    def only(self, wanted: _Mask) -> "_Flat":
        """Some of them."""
        if wanted.all():
            return self
        chosen = pa.array(wanted)
        return _Flat(
            self.rows[wanted],
            self.columns.filter(chosen),
            self.raw.filter(chosen),
            self.kinds[wanted],
            self.elements[wanted],
        )


def _plain(payloads: pa.BinaryArray, side: Side) -> tuple[_Mask, pa.ListArray]:
    """Which payloads hold nothing but numbers in raw contents; and the tensors of those."""
    try:
        batch = side.columns(payloads)
    except ValueError:
        # One of them is no message, and nobody says which.
        return np.zeros(len(payloads), np.bool_), pa.array([], pa.list_(TENSOR))
    flat, enough = _flat(batch["tensors"], batch["raw"])
    unfit = np.bincount(flat.rows[~flat.fit()], minlength=len(payloads))
    plain: _Mask = enough & (unfit == 0)
    flat = flat.only(plain[flat.rows])
    counts = np.bincount(flat.rows, minlength=len(payloads))[plain]
    columns = {
        "name": flat.columns.field("name"),
        "datatype": flat.columns.field("datatype"),
        "shape": flat.columns.field("shape").cast(pa.list_(pa.int64())),
        "numbers": _numbers(flat),
        "texts": pa.nulls(len(flat.rows), pa.list_(pa.string())),
    }
    struct = pa.StructArray.from_arrays([columns[f.name] for f in TENSOR], fields=list(TENSOR))
    return plain, pa.ListArray.from_arrays(_offsets(counts), struct)


def _flat(tensors: pa.ListArray, raw: pa.ListArray) -> tuple[_Flat, _Mask]:
    """All tensors, with their bytes; and which payloads have bytes for each of theirs."""
    first, first_raw = tensors.offsets.to_numpy(), raw.offsets.to_numpy()
    counts, counts_raw = np.diff(first), np.diff(first_raw)
    enough: _Mask = counts_raw >= counts
    rows = np.repeat(np.arange(len(counts)), counts)
    places = np.arange(len(rows)) + (first_raw[:-1] - first[:-1])[rows]
    columns = tensors.flatten()
    kinds = pc.index_in(columns.field("datatype"), value_set=_DATATYPES)
    flat = _Flat(
        rows,
        columns,
        raw.flatten().take(pa.array(places, mask=~enough[rows])),
        kinds.fill_null(-1).to_numpy(),
        _elements(columns.field("shape")),
    )
    return flat, enough


def _elements(shapes: pa.ListArray) -> NDArray[np.float64]:
    """The product of each shape's dimensions; -1 where one is negative.

    As floats, which are exact as far as any payload reaches, and do not wrap around beyond: there
    they are infinite, or no number once a dimension of none follows.
    """
    first, dimensions = shapes.offsets.to_numpy(), shapes.flatten().to_numpy()
    ranks = np.diff(first)
    elements = np.ones(len(ranks))
    negative = np.zeros(len(ranks), np.bool_)
    for axis in range(int(ranks.max(initial=0))):
        has = np.flatnonzero(ranks > axis)
        size = dimensions[first[has] + axis]
        with np.errstate(over="ignore", invalid="ignore"):
            elements[has] *= size
        negative[has] |= size < 0
    elements[negative] = -1
    return elements


def _numbers(flat: _Flat) -> pa.ListArray:
    """The elements of each tensor, as float64; null for those of a large one."""
    small = flat.elements <= MOST_ELEMENTS
    large = np.flatnonzero(~small)
    parts = [(large, pa.nulls(len(large), pa.list_(pa.float64())))]
    for kind in np.unique(flat.kinds[small]):
        places = np.flatnonzero(small & (flat.kinds == kind))
        raw = flat.raw if len(places) == len(flat.raw) else flat.raw.take(pa.array(places))
        values = np.frombuffer(_bytes(raw), list(DTYPES.values())[kind]).astype(np.float64)
        lists = pa.ListArray.from_arrays(_offsets(flat.elements[places]), pa.array(values))
        parts.append((places, lists))
    return _ordered(*parts)


def _bytes(array: pa.BinaryArray) -> Any:
    """What the elements of an array without nulls are, one after the other."""
    _, ends, data = array.buffers()
    if data is None:
        return b""
    ends = np.frombuffer(ends, np.int32)[array.offset : array.offset + len(array) + 1]
    return memoryview(data)[ends[0] : ends[-1]]


def _ordered(*parts: tuple[_Indices, pa.Array]) -> pa.Array:
    """One array of several, each with the places at which its elements are to be."""
    whole = [part for part in parts if len(part[0])] or parts[:1]
    if len(whole) == 1:
        return whole[0][1]
    order = np.argsort(np.concatenate([places for places, _ in whole]))
    return pa.concat_arrays([array for _, array in whole]).take(pa.array(order))


def _offsets(lengths: Iterable[float]) -> pa.Array:
    """Where lists of such lengths begin, and the last one ends."""
    return pa.array(np.cumsum([0, *lengths], dtype=np.int32))


def _one(payload: bytes, side: Side) -> list[dict[str, Any]] | None:
    try:
        arrays = side.arrays_of(side.whole(payload))
    except (DecodeError, InvalidTensor):
        return None
    return [_tensor(name, array) for name, array in arrays.items()]


def _tensor(name: str, array: Array) -> dict[str, Any]:
    datatype = datatype_of(array)
    made: dict[str, Any] = {
        "name": name,
        "datatype": datatype,
        "shape": list(array.shape),
        "numbers": None,
        "texts": None,
    }
    if array.size > MOST_ELEMENTS:
        return made
    flat = array.reshape(-1)
    if datatype == "BYTES":
        made["texts"] = [element.decode(errors="replace") for element in flat]
    else:
        made["numbers"] = flat.astype(np.float64)
    return made


def _mask(array: pa.BooleanArray) -> _Mask:
    mask: _Mask = array.to_numpy(zero_copy_only=False)
    return mask
