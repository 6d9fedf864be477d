"""gRPC above HTTP/2, without HTTP/2: messages, timeouts, metadata and statuses as bytes.

For fronts that are handed requests and send responses, and leave frames and flow control to a
server below them. Nothing here reads or writes; nothing here knows who does.
Specification: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import base64
import binascii
import re
import struct
import zlib
from collections.abc import Iterable
from typing import Final, TypeAlias
from urllib.parse import quote_from_bytes

from modelyard.errors import Internal, InvalidArgument, MessageTooLarge, Unimplemented

Header: TypeAlias = tuple[bytes, bytes]
Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

CONTENT_TYPE: Final = b"application/grpc"
# What a request may be compressed with. Responses are not: tensors hardly shrink.
ENCODINGS: Final = b"identity, deflate, gzip"
# For zlib: `gzip` has gzip's header, `deflate` is zlib's format (RFC 1950), as gRPC has it.
_WINDOW: Final = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}

_PREFIX: Final = struct.Struct(">BI")
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
# Of HTTP, and of gRPC's own: no metadata. Reserved names that begin with `grpc-` go as well.
_NOT_METADATA: Final = frozenset({b"host", b"content-type", b"te", b"content-length"})
# Of a name. HTTP has more, which no other hop of gRPC would take.
_NAME: Final = b"0123456789abcdefghijklmnopqrstuvwxyz_.-"
# A message in a header keeps what is printable, but for the percent sign.
_PRINTABLE: Final = "".join(chr(c) for c in range(0x20, 0x7F) if c != 0x25)


class Messages:
    """Takes the bytes of one direction of a call apart.

    Args:
        limit: Bytes that a message may have, compressed or not.
        encoding: The header `grpc-encoding`; empty where there is none.

    Raises:
        Unimplemented: An encoding that nobody here knows.
    """

    __slots__ = ("_buffer", "_encoding", "_limit")

    def __init__(self, limit: int, encoding: bytes = b"") -> None:
        if encoding and encoding != b"identity" and encoding not in _WINDOW:
            raise Unimplemented(
                f"grpc-encoding {encoding.decode('latin-1')!r}: this server knows"
                f" {ENCODINGS.decode()}"
            )
        self._limit = limit
        self._encoding = encoding
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that end in these bytes, in their order.

        Raises:
            MessageTooLarge: A message is above the limit; told before its bytes are here.
            Internal: The bytes are no messages of gRPC, or no data of the encoding.
        """
        if not self._buffer and len(data) >= 5:
            # The usual case: one message, whole.
            flag, size = _PREFIX.unpack_from(data)
            if flag == 0 and size == len(data) - 5 and size <= self._limit:
                return [data[5:]]
        buffer = self._buffer
        buffer += data
        messages, at = [], 0
        while len(buffer) - at >= 5:
            flag, size = _PREFIX.unpack_from(buffer, at)
            if flag > 1:
                raise Internal(f"a message begins with {flag}, not with 0 or 1")
            if size > self._limit:
                raise _too_large(size, self._limit)
            end = at + 5 + size
            if len(buffer) < end:
                break
            with memoryview(buffer) as view:
                message = bytes(view[at + 5 : end])
            messages.append(self._decompressed(message) if flag else message)
            at = end
        del buffer[:at]
        return messages

    def end(self) -> None:
        """The sender is done; raises Internal where a message is not whole."""
        if self._buffer:
            raise Internal("the request ends inside a message")

    def _decompressed(self, message: bytes) -> bytes:
        window = _WINDOW.get(self._encoding)
        if window is None:
            raise Internal("a compressed message, and no grpc-encoding that says how")
        inflating = zlib.decompressobj(window)
        try:
            plain = inflating.decompress(message, self._limit + 1)
        except zlib.error:
            raise Internal(f"a message is no {self._encoding.decode()} data") from None
        if len(plain) > self._limit:
            raise _too_large(len(plain), self._limit)
        if not inflating.eof:
            raise Internal(f"a message is no whole {self._encoding.decode()} data")
        return plain


def _too_large(size: int, limit: int) -> MessageTooLarge:
    # Clients tell by these words, which are those of gRPC's core.
    return MessageTooLarge(f"Received message larger than max ({size} vs. {limit})")


def framed(message: bytes) -> bytes:
    """A message as it travels, not compressed."""
    return _PREFIX.pack(0, len(message)) + message


def seconds(timeout: bytes) -> float:
    """What the header `grpc-timeout` says; raises Internal where it says nothing."""
    match = _TIMEOUT.fullmatch(timeout)
    if match is None:
        raise Internal(f"grpc-timeout {timeout.decode('latin-1')!r}: at most 8 digits and a unit")
    return int(match[1]) * _UNITS[match[2]]


def metadata(headers: Iterable[Header]) -> Metadata:
    """What a caller sent along.

    Raises:
        InvalidArgument: A name is none of gRPC's, a binary value is not base64, or another is not
            printable ASCII.
    """
    found: list[tuple[str, str | bytes]] = []
    for key, value in headers:
        if key in _NOT_METADATA or key.startswith((b"grpc-", b":")):
            continue
        name = key.decode("latin-1")
        if key.translate(None, _NAME):
            raise InvalidArgument(f"metadata {name!r}: no name of metadata", field=name)
        if key.endswith(b"-bin"):
            # Proxies may join the values of one key by commas; base64 has none.
            found += [(name, _unpadded(name, part)) for part in value.split(b",")]
            continue
        text = value.decode("latin-1")
        if not (text.isascii() and text.isprintable()):
            raise InvalidArgument(f"metadata {name!r}: not printable ASCII", field=name)
        found.append((name, text))
    return tuple(found)


def _unpadded(name: str, value: bytes) -> bytes:
    value = value.strip().rstrip(b"=")
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        raise InvalidArgument(f"metadata {name!r}: not base64", field=name) from None


def headers(sent: Iterable[tuple[str, str | bytes]]) -> list[Header]:
    """Metadata as headers."""
    return [
        (key.encode("ascii"), value.encode("ascii"))
        if isinstance(value, str)
        else (key.encode("ascii"), base64.b64encode(value).rstrip(b"="))
        for key, value in sent
    ]


def status(code: int, message: str = "") -> list[Header]:
    """A status as headers, for trailers or in their place."""
    told = [(b"grpc-status", b"%d" % code)]
    if message:
        escaped = quote_from_bytes(message.encode("utf-8", "replace"), safe=_PRINTABLE)
        told.append((b"grpc-message", escaped.encode("ascii")))
    return told
