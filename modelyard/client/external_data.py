"""The names of the files that an ONNX file keeps tensors in.

An application that only talks to a yard does not have the `onnx` package. So this reads the
protobuf wire format: it walks the few messages that may hold a tensor and steps over all the rest,
weights included.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from modelyard.errors import InvalidArtifact

# message -> field -> message: the ways from a model to its tensors, as onnx.proto numbers them.
_WAYS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}


class _NotProtobuf(Exception):
    pass


def external_files(model: Path) -> dict[str, Path]:
    """The files beside a model file that hold its tensors, by the location that it names.

    A file that is no ONNX file has none; the registry says what is wrong with it.

    Raises:
        InvalidArtifact: A location leaves the model's folder, or nothing is there.
    """
    if model.stat().st_size == 0:
        return {}
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            locations = sorted(set(_locations(data, 0, len(data), "Model")))
        except _NotProtobuf:
            return {}
    return {location: _beside(model, location) for location in locations}


def _beside(model: Path, location: str) -> Path:
    parts = PurePosixPath(location)
    if not location or parts.is_absolute() or ".." in parts.parts or "\\" in location:
        raise InvalidArtifact(
            f"{model.name} keeps tensors in {location!r}, outside its own folder", path=location
        )
    path = model.parent / parts
    if not path.is_file():
        raise InvalidArtifact(
            f"{model.name} keeps tensors in {location!r}, and no such file is beside it",
            path=location,
        )
    return path


def _locations(data: mmap.mmap, start: int, end: int, message: str) -> Iterator[str]:
    ways = _WAYS[message]
    for number, low, high in _fields(data, start, end):
        below = ways.get(number)
        if below == "Entry":
            entry = {n: data[a:b] for n, a, b in _fields(data, low, high)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode(errors="replace")
        elif below is not None:
            yield from _locations(data, low, high, below)


def _fields(data: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The length-delimited fields of a message: number, begin, end."""
    while position < end:
        key, position = _varint(data, position, end)
        match key & 7:
            case 0:
                _, position = _varint(data, position, end)
            case 1:
                position += 8
            case 5:
                position += 4
            case 2:
                size, position = _varint(data, position, end)
                if position + size > end:
                    raise _NotProtobuf
                yield key >> 3, position, position + size
                position += size
            case _:
                raise _NotProtobuf
    if position != end:
        raise _NotProtobuf


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _NotProtobuf
