"""Takes what a caller sends apart into frames, in whatever pieces it comes. Pure."""

from typing import Final, Protocol

from gateway.fronts.http2 import frames
from gateway.fronts.http2.fields import MOST
from gateway.fronts.http2.frames import Broken, Code

# The largest frame that is taken, in bytes.
LARGEST: Final = 1 << 18
# CONTINUATIONs of one block.
_CONTINUATIONS: Final = 1_000


class Sink(Protocol):
    """Is told what came. What it raises ends the connection."""

    def headers(self, number: int, end: bool, block: bytes) -> None:
        """The headers of a stream, or its trailers; `end`: its last frame."""

    def coming(self, number: int, size: int, flags: int) -> None:
        """A DATA of so many bytes begins."""

    def data(self, number: int, piece: bytes, end: bool) -> None:
        """A part of a DATA, or all of it."""

    def control(self, kind: int, flags: int, number: int, body: bytes) -> None:
        """Any other frame."""


class Parser:
    """One direction of a connection, from behind the preface on.

    Args:
        sink: Is told.

    Attributes:
        over: Set it, and nothing more is looked at.
    """

    def __init__(self, sink: Sink) -> None:
        self.over = False
        self._sink = sink
        self._greeted = False
        self._rest = b""
        # A DATA whose end is on its way: its stream, what is missing, its flags.
        self._data: tuple[int, int, int] | None = None
        # HEADERS whose end is on its way: their stream, flags and block.
        self._block: tuple[int, int, bytearray] | None = None
        self._continued = 0

    def feed(self, data: bytes) -> None:
        """Takes bytes, of which the last may be a frame's beginning; raises Broken."""
        if self._rest:
            data = self._rest + data
        self._rest = data[self._frames(data) :]

    def _frames(self, data: bytes) -> int:
        """Takes frames; gives where the first one begins that is not whole."""
        at, end, sink = 0, len(data), self._sink
        if self._data is not None:
            at = self._more(data)
        while end - at >= frames.HEAD_BYTES:
            high, low, kind, flags, number = frames.HEAD.unpack_from(data, at)
            size, number = high << 16 | low, number & frames.LARGEST_WINDOW
            if size > LARGEST:
                raise Broken(Code.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            if self._block is not None and kind != frames.CONTINUATION:
                raise Broken(Code.PROTOCOL_ERROR, "headers that do not go on")
            if not self._greeted:
                if kind != frames.SETTINGS:
                    raise Broken(Code.PROTOCOL_ERROR, "no SETTINGS at the beginning")
                self._greeted = True
            body = at + frames.HEAD_BYTES
            after = body + size
            if after > end:
                if kind == frames.DATA and not flags & frames.PADDED:
                    # A large one goes on as it comes.
                    sink.coming(number, size, flags)
                    self._data = (number, size, flags)
                    return body + self._more(data[body:])
                break
            if kind == frames.DATA:
                sink.coming(number, size, flags)
                piece = data[body:after]
                if flags & frames.PADDED:
                    piece = frames.unpadded(piece, frames.PADDED)
                sink.data(number, piece, bool(flags & frames.END_STREAM))
            elif kind == frames.HEADERS:
                block = data[body:after]
                if flags & (frames.PADDED | frames.WITH_PRIORITY):
                    block = frames.unpadded(block, flags)
                if flags & frames.END_HEADERS:
                    sink.headers(number, bool(flags & frames.END_STREAM), block)
                else:
                    self._block, self._continued = (number, flags, bytearray(block)), 0
            elif kind == frames.CONTINUATION:
                self._continue(number, flags, data[body:after])
            else:
                sink.control(kind, flags, number, data[body:after])
            if self.over:
                return end
            at = after
        return at

    def _more(self, data: bytes) -> int:
        """Takes a part of a DATA of which some has come; gives how much."""
        assert self._data is not None, "asked for then"
        number, missing, flags = self._data
        piece = data[:missing]
        missing -= len(piece)
        self._data = (number, missing, flags) if missing else None
        if piece:
            self._sink.data(number, piece, not missing and bool(flags & frames.END_STREAM))
        return len(piece)

    def _continue(self, number: int, flags: int, more: bytes) -> None:
        if self._block is None or number != self._block[0]:
            raise Broken(Code.PROTOCOL_ERROR, "a CONTINUATION of nothing")
        _, before, block = self._block
        block += more
        self._continued += 1
        if len(block) > MOST or self._continued > _CONTINUATIONS:
            raise Broken(Code.ENHANCE_YOUR_CALM, "the headers are too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._sink.headers(number, bool(before & frames.END_STREAM), bytes(block))
