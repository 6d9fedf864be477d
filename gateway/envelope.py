"""Reads what routing needs from a serialized `ModelInferRequest`, and nothing more.

Fields 1 (model_name), 2 (model_version), 3 (id) and 4 (parameters) are read; tensors are
skipped by their length, so that the cost does not grow with the payload.
Wire format: https://protobuf.dev/programming-guides/encoding/
"""

import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

from modelyard.errors import InvalidArgument

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_INPUTS, _SHAPE = 5, 3

Parameter: TypeAlias = bool | int | str | float


@dataclass(slots=True)
class Envelope:
    """The head of a request.

    Attributes:
        model: The model's name.
        version: A version number, a label, or nothing.
        id: The caller's identifier.
        parameters: The request's parameters, by name.
    """

    model: str = ""
    version: str = ""
    id: str = ""
    parameters: dict[str, Parameter] | None = None


class _Malformed(Exception):
    pass


def read(payload: bytes) -> Envelope:
    """Reads the head of a request; raises InvalidArgument when the bytes are no message."""
    try:
        return _read(payload)
    except (_Malformed, IndexError, UnicodeDecodeError, struct.error):
        raise InvalidArgument("the request is not a ModelInferRequest message") from None


def _read(data: bytes) -> Envelope:
    envelope = Envelope()
    at, end = 0, len(data)
    while at < end:
        # The common case inlined: a one-byte key, a one-byte length.
        key = data[at]
        at += 1
        if key >= 0x80:
            key, at = _varint(data, at - 1)
        kind = key & 7
        if kind == _LEN:
            size = data[at]
            at += 1
            if size >= 0x80:
                size, at = _varint(data, at - 1)
            stop = at + size
            if stop > end:
                raise _Malformed
            match key >> 3:
                case 1:
                    envelope.model = data[at:stop].decode()
                case 2:
                    envelope.version = data[at:stop].decode()
                case 3:
                    envelope.id = data[at:stop].decode()
                case 4:
                    if envelope.parameters is None:
                        envelope.parameters = {}
                    name, value = _parameter(data[at:stop])
                    if value is not None:
                        envelope.parameters[name] = value
            at = stop
        else:
            at = _skip(data, at, kind)
    if at != end:
        raise _Malformed
    return envelope


def rows(payload: bytes) -> int:
    """The first dimension of a request's first input; 1 where it has none.

    Raises:
        InvalidArgument: The bytes are no message.
    """
    try:
        for number, content in _fields(payload):
            if number == _INPUTS and isinstance(content, bytes):
                return _first_dimension(content)
    except (_Malformed, IndexError):
        raise InvalidArgument("the request is not a ModelInferRequest message") from None
    return 1


def _first_dimension(tensor: bytes) -> int:
    for number, content in _fields(tensor):
        if number == _SHAPE:
            # Packed, or one by one from an old client.
            return content if isinstance(content, int) else _varint(content, 0)[0]
    return 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise _Malformed


def _skip(data: bytes, at: int, kind: int) -> int:
    if kind == _VARINT:
        return _varint(data, at)[1]
    if kind == _I64:
        return at + 8
    if kind == _I32:
        return at + 4
    raise _Malformed


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """All fields of a small message, in order."""
    fields: list[tuple[int, int | bytes]] = []
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            fields.append((key >> 3, value))
            continue
        if kind == _LEN:
            size, at = _varint(data, at)
            stop = at + size
        elif kind in (_I64, _I32):
            stop = at + (8 if kind == _I64 else 4)
        else:
            raise _Malformed
        if stop > end:
            raise _Malformed
        fields.append((key >> 3, data[at:stop]))
        at = stop
    return fields


def _parameter(entry: bytes) -> tuple[str, Parameter | None]:
    """One entry of `map<string, InferParameter>`."""
    name, value = "", None
    for number, content in _fields(entry):
        if number == 1 and isinstance(content, bytes):
            name = content.decode()
        elif number == 2 and isinstance(content, bytes):
            for choice, held in _fields(content):
                value = _choice(choice, held, value)
    return name, value


_DOUBLE: Final = struct.Struct("<d")


def _choice(choice: int, held: int | bytes, otherwise: Parameter | None) -> Parameter | None:
    match choice, held:
        case 1, int():
            return bool(held)
        case 2, int():
            return held - (1 << 64) if held >> 63 else held
        case 3, bytes():
            return held.decode()
        case 4, bytes():
            return float(_DOUBLE.unpack(held)[0])
        case 5, int():
            return held
    return otherwise


def stream_answer(payload: bytes) -> bytes:
    """A serialized `ModelStreamInferResponse` around a serialized `ModelInferResponse`."""
    return b"\x12" + _encode_varint(len(payload)) + payload


def stream_error(message: str, request_id: str) -> bytes:
    """A serialized `ModelStreamInferResponse` that tells an error."""
    text = message.encode()
    identity = request_id.encode()
    answer = b"\x1a" + _encode_varint(len(identity)) + identity if identity else b""
    return b"\x0a" + _encode_varint(len(text)) + text + stream_answer(answer)


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
