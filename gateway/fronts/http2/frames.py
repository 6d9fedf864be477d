"""Frames of HTTP/2 (RFC 9113) as bytes: those that are sent, and the heads of those that come."""

import struct
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

# The first two are the size: above 16 bits, and below.
HEAD: Final = struct.Struct(">BHBBI")
HEAD_BYTES: Final = HEAD.size
LARGEST_WINDOW: Final = (1 << 31) - 1

# What is so until the peer says otherwise.
WINDOW, FRAME = 65_535, 16_384
MOST_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_HEADERS = 3, 4, 5, 6
_NUMBER = struct.Struct(">I")
_SETTING = struct.Struct(">HI")
_PAIR = struct.Struct(">II")


class Code(IntEnum):
    """Why a stream is reset, or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Broken(Exception):
    """The peer breaks the protocol: its connection ends.

    Attributes:
        code: What it is told.
        why: In words.
    """

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


def head(size: int, kind: int, flags: int, stream: int) -> bytes:
    """The head of a frame."""
    return HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream)


def settings(pairs: dict[int, int]) -> bytes:
    """A SETTINGS."""
    body = b"".join(_SETTING.pack(key, value) for key, value in pairs.items())
    return head(len(body), SETTINGS, 0, 0) + body


def read_settings(body: bytes) -> list[tuple[int, int]]:
    """What a SETTINGS says; raises Broken."""
    if len(body) % _SETTING.size:
        raise Broken(Code.FRAME_SIZE_ERROR, f"SETTINGS of {len(body)} bytes")
    return list(_SETTING.iter_unpack(body))


def settings_ack() -> bytes:
    """The answer to a SETTINGS."""
    return head(0, SETTINGS, ACK, 0)


def ping(data: bytes, answer: bool = False) -> bytes:
    """A PING of 8 bytes, or the answer to one."""
    return head(8, PING, ACK if answer else 0, 0) + data


def reset(stream: int, code: Code) -> bytes:
    """A RST_STREAM."""
    return head(4, RST_STREAM, 0, stream) + _NUMBER.pack(code)


def goaway(last: int, code: Code = Code.NO_ERROR, why: str = "") -> bytes:
    """A GOAWAY: streams above `last` were not looked at."""
    text = why.encode()
    return head(8 + len(text), GOAWAY, 0, 0) + _PAIR.pack(last, code) + text


def window_update(stream: int, more: int) -> bytes:
    """A WINDOW_UPDATE; of the connection where `stream` is 0."""
    return head(4, WINDOW_UPDATE, 0, stream) + _NUMBER.pack(more)


def number(body: bytes, name: str) -> int:
    """The one number of a frame; raises Broken."""
    if len(body) != 4:
        raise Broken(Code.FRAME_SIZE_ERROR, f"{name} of {len(body)} bytes")
    return int(_NUMBER.unpack(body)[0])


def unpadded(body: bytes, flags: int) -> bytes:
    """What of a DATA or HEADERS is no padding, and no priority; raises Broken."""
    start, pad = 0, 0
    if flags & PADDED:
        if not body:
            raise Broken(Code.FRAME_SIZE_ERROR, "padding without a size")
        start, pad = 1, body[0]
    if flags & WITH_PRIORITY:
        start += 5
    if start + pad > len(body):
        raise Broken(Code.PROTOCOL_ERROR, "more padding than frame")
    return body[start : len(body) - pad]
