"""Headers of HTTP/2: those of requests taken apart, those of responses put together.

Callers send the same headers call after call, as indexes into a table that both sides keep (RFC
7541). What a block of bytes says is remembered for as long as that table stays as it is, with all
that a call needs of it; then a request's headers cost one look-up.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import hpack

from gateway.call import Metadata
from gateway.fronts import wire
from gateway.fronts.http2.frames import Broken, Code
from gateway.fronts.metadata import split
from gateway.fronts.paths import INFER
from modelyard.errors import ModelyardError

# Bytes of a request's headers, unpacked.
MOST: Final = 64 << 10
# Blocks that are remembered of a connection, and the bytes that each may say.
_KNOWN, _SAYS = 64, 4 << 10

_PATH: Final = re.compile(rb"/[!-~]*")
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE: Final = re.compile(rb"[\x00\r\n]")
# Of a connection, which HTTP/2 has not (RFC 9113, 8.2.2).
_NOT_HERE: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_PSEUDO: Final = frozenset({b":method", b":scheme", b":path", b":authority"})


class Malformed(Exception):
    """Headers that are no request: the stream is reset, the connection goes on."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request's headers, and what of them a call needs.

    Attributes:
        method: Of HTTP.
        path: Without a query; "" for one that is not printable ASCII.
        headers: All but the pseudo-headers.
        grpc: Whether it is gRPC's.
        hot: Whether it calls `ModelInfer` by gRPC.
        timeout: Seconds that the caller gives; None for no deadline.
        encoding: Of its messages.
        metadata: What hosts should see; of a hot call.
        request_id: What the caller calls it, of a hot call; "" where it has no name.
        fault: What is wrong with a hot call; None where nothing is.
    """

    method: str
    path: str
    headers: tuple[wire.Header, ...]
    grpc: bool
    hot: bool
    timeout: float | None = None
    encoding: bytes = b""
    metadata: Metadata = ()
    request_id: str = ""
    fault: ModelyardError | None = None


class Heads:
    """Takes the blocks of one connection, in their order."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=MOST)
        self._known: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """The head of a request.

        Raises:
            Broken: The block is none: no later one can be read either.
            Malformed: It is no request.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        headers = self.decode(block)
        head = head_of(headers)
        # A few bytes may say much: no caller makes us remember more than it may send.
        if self._lasts(block) and sum(len(k) + len(v) for k, v in headers) <= _SAYS:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[block] = head
        return head

    def decode(self, block: bytes) -> list[wire.Header]:
        """The headers of a block; raises Broken."""
        if not self._lasts(block):
            # It may change the table, and so what the blocks that are known would say now.
            self._known.clear()
        try:
            return [(bytes(k), bytes(v)) for k, v in self._decoder.decode(block, raw=True)]
        except hpack.OversizedHeaderListError as error:
            raise Broken(Code.ENHANCE_YOUR_CALM, "the headers are too large") from error
        except hpack.HPACKError as error:
            raise Broken(Code.COMPRESSION_ERROR, "the headers cannot be unpacked") from error

    @staticmethod
    def _lasts(block: bytes) -> bool:
        """Of indexes alone, a byte each: until the table changes, it says the same."""
        return bool(block) and min(block) >= 0x80 and max(block) < 0xFF


def head_of(headers: Iterable[wire.Header]) -> Head:
    """What a request's headers say; raises Malformed."""
    pseudo: dict[bytes, bytes] = {}
    plain: list[wire.Header] = []
    content_type = timeout = encoding = b""
    for name, value in headers:
        if _BAD_VALUE.search(value):
            raise Malformed
        if name[:1] == b":":
            if plain or name not in _PSEUDO or name in pseudo:
                raise Malformed
            pseudo[name] = value
            continue
        if not _NAME.fullmatch(name) or name in _NOT_HERE:
            raise Malformed
        if name == b"content-type":
            content_type = value
        elif name == b"grpc-timeout":
            timeout = value
        elif name == b"grpc-encoding":
            encoding = value
        plain.append((name, value))
    if not (pseudo.get(b":path") and pseudo.get(b":method") and b":scheme" in pseudo):
        raise Malformed
    raw = pseudo[b":path"]
    path = raw.partition(b"?")[0].decode() if _PATH.fullmatch(raw) else ""
    method = pseudo[b":method"].decode("latin-1")
    grpc = method == "POST" and content_type.startswith(wire.CONTENT_TYPE)
    if not (grpc and path == INFER):
        return Head(method, path, tuple(plain), grpc, hot=False)
    try:
        seconds = wire.seconds(timeout) if timeout else None
        wire.Messages(0, encoding)  # Raises for one that nobody knows.
        metadata, request_id = split(wire.metadata(plain))
    except ModelyardError as error:
        return Head(method, path, tuple(plain), grpc, hot=True, fault=error)
    return Head(
        *(method, path, tuple(plain), grpc, True),
        timeout=seconds,
        encoding=encoding,
        metadata=metadata,
        request_id=request_id,
    )


def block(headers: Iterable[wire.Header]) -> bytes:
    """Headers as a block that leaves the caller's table as it is."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in headers)


def status(code: int) -> bytes:
    """The block of `:status`, which comes first."""
    return b"\x88" if code == 200 else b"\x08" + _string(b"%d" % code)


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 0x7F:
        return bytes((size,)) + text
    head, size = bytearray(b"\x7f"), size - 0x7F
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + text
