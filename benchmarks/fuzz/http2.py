"""HTTP/2 by the byte, for callers that keep none of its rules: frames, and what comes back.

Header blocks hold literals that no side remembers (RFC 7541, 6.2.2): one that is spoilt spoils no
other. Specification: https://www.rfc-editor.org/rfc/rfc9113
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import hpack

Header: TypeAlias = tuple[bytes, bytes]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
TYPES: Final = (
    *("DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS"),
    *("PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION"),
)
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, MORE = (
    range(len(TYPES))
)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
# What a server takes in one frame, unless it says otherwise.
LARGEST_FRAME: Final = 1 << 14
_ERRORS: Final = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT"),
    *("STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR"),
    *("CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def block(headers: Iterable[Header]) -> bytes:
    """A header block."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in headers)


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 0x7F:
        return bytes((size,)) + text
    size -= 0x7F
    counted = bytearray(b"\x7f")
    while size >= 0x80:
        counted.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(counted) + bytes((size,)) + text


def settings(*pairs: tuple[int, int]) -> bytes:
    """A SETTINGS frame of identifiers and values."""
    payload = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in pairs)
    return frame(SETTINGS, payload=payload)


def head(stream: int, held: bytes, end: bool = False) -> list[bytes]:
    """A header block as HEADERS and, where it is large, CONTINUATION."""
    parts = list(_parts(held))
    ending = END_STREAM if end else 0
    frames = [frame(HEADERS, ending | (0 if parts[1:] else END_HEADERS), stream, parts[0])]
    for at, part in enumerate(parts[1:], 2):
        frames.append(frame(MORE, END_HEADERS if at == len(parts) else 0, stream, part))
    return frames


def body(stream: int, parts: Iterable[bytes], end: bool = True) -> list[bytes]:
    """Data in as many frames as parts need."""
    pieces = [piece for part in parts for piece in _parts(part)] or [b""]
    frames = [frame(DATA, 0, stream, piece) for piece in pieces[:-1]]
    return [*frames, frame(DATA, END_STREAM if end else 0, stream, pieces[-1])]


def _parts(data: bytes) -> Iterator[bytes]:
    yield data[:LARGEST_FRAME]
    for at in range(LARGEST_FRAME, len(data), LARGEST_FRAME):
        yield data[at : at + LARGEST_FRAME]


def error(code: int) -> str:
    """An error code's name."""
    return _ERRORS[code] if code < len(_ERRORS) else f"error {code}"


def mutate(chance: random.Random, whole: bytes, other: bytes) -> bytes:
    """A frame, changed; `other` is one that parts may be taken of."""
    size, kind, flags = int.from_bytes(whole[:3], "big"), whole[3], whole[4]
    stream, payload = int.from_bytes(whole[5:9], "big"), whole[HEAD_BYTES:]
    match chance.randrange(12):
        case 0:
            sizes = (0, max(size - 1, 0), size + 1, LARGEST_FRAME + 1, (1 << 24) - 1)
            size = chance.choice((*sizes, chance.randrange(1 << 10)))
        case 1:
            kind = chance.choice((chance.randrange(len(TYPES)), chance.randrange(256)))
        case 2 | 3:
            flags ^= 1 << chance.choice((0, 0, 2, 2, 3, 5, chance.randrange(8)))
        case 4:
            near = (0, stream + 1, stream + 2, max(stream - 2, 0), stream + 1001)
            stream = chance.choice((*near, (1 << 31) - 1, stream | 1 << 31))
        case 5 | 6 | 7 if payload:
            payload = bits(chance, payload)
        case 8:
            return garble(chance, whole)
        case 9:
            payload = other[HEAD_BYTES:]
            size = len(payload)
        case 10:
            return chance.choice((whole + whole, other + whole, b""))
        case _:
            payload = garble(chance, payload)
            size = len(payload)
    mutated = size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return mutated + payload


def bits(chance: random.Random, data: bytes) -> bytes:
    """The same, with some bits turned."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def garble(chance: random.Random, data: bytes) -> bytes:
    """The same, with bits turned, or a part left out, put in or said twice."""
    if not data:
        return chance.randbytes(chance.randrange(1, 20))
    at = chance.randrange(len(data))
    upto = at + chance.randrange(1, 40)
    match chance.randrange(5):
        case 0:
            return data[:at] + data[upto:]
        case 1:
            return data[:at] + chance.randbytes(upto - at) + data[at:]
        case 2:
            return data[:upto] + data[at:]
        case 3:
            return data[:at]
        case _:
            return bits(chance, data)


def paths_are_text(sent: bytes) -> bool:
    """Whether no server can find a `:path` in these frames that is not UTF-8; in doubt, False.

    Whatever else is wrong with their header blocks: a server may take a call, and then see that.
    """
    at = sent.find(b":path")
    while at >= 0:
        at += len(b":path")
        size, start = _integer(sent, at)
        try:
            sent[start : start + size].decode()
        except UnicodeDecodeError:
            return False
        at = sent.find(b":path", at)
    return True


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """The length of a string (RFC 7541, 5.1), and where that begins; of Huffman's code none."""
    if at >= len(data) or data[at] < 0x7F:
        return (data[at] if at < len(data) else 0), at + 1
    size, shift = 0x7F, 0
    while data[at] != 0xFF and (at := at + 1) < len(data):
        size += (data[at] & 0x7F) << shift
        shift += 7
        if data[at] < 0x80:
            break
    return size, at + 1


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that came; with its header block as headers, where it ends one."""

    kind: int
    flags: int
    stream: int
    payload: bytes
    headers: tuple[Header, ...] = ()


class Reader:
    """Takes what a server sends apart; raises hpack.HPACKError where a block is none."""

    def __init__(self) -> None:
        self._buffer = b""
        self._block = b""
        self._decoder = hpack.Decoder(max_header_list_size=1 << 24)
        # A server may take us at our word, whatever that was.
        self._decoder.max_allowed_table_size = 1 << 32

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are whole now."""
        self._buffer += data
        found, at = [], 0
        while len(self._buffer) - at >= HEAD_BYTES:
            end = at + HEAD_BYTES + int.from_bytes(self._buffer[at : at + 3], "big")
            if len(self._buffer) < end:
                break
            found.append(self._frame(self._buffer[at:end]))
            at = end
        self._buffer = self._buffer[at:]
        return found

    def _frame(self, whole: bytes) -> Frame:
        kind, flags, payload = whole[3], whole[4], whole[HEAD_BYTES:]
        stream = int.from_bytes(whole[5:9], "big")
        if kind not in (HEADERS, MORE):
            return Frame(kind, flags, stream, payload)
        self._block += payload
        if not flags & END_HEADERS:
            return Frame(kind, flags, stream, payload)
        held, self._block = self._block, b""
        headers = tuple((bytes(k), bytes(v)) for k, v in self._decoder.decode(held, raw=True))
        return Frame(kind, flags, stream, payload, headers)
