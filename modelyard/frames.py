"""The wire format of the local lane: frames, made and parsed. No I/O here.

A frame is a head of 32 bytes and a body of three parts, of which each may be empty: text, metadata,
payload. docs/local-lane.md has the table of bytes and the rules. Large payloads are received
straight into memory of their own: `Parser.space` says where the next bytes go.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

VERSION: Final = 1
# How a greeting's text begins; who speaks may follow.
NAME: Final = b"modelyard"

# The types of frames.
HELLO: Final = 1
REQUEST: Final = 2
ANSWER: Final = 3
STATUS: Final = 4
CANCEL: Final = 5
PING: Final = 6
PONG: Final = 7
DRAIN: Final = 8
CLOSE: Final = 9

_NAMES = ("", "HELLO", "REQUEST", "ANSWER", "STATUS", "CANCEL", "PING", "PONG", "DRAIN", "CLOSE")
_LAST = CLOSE
_OF_CALLS = frozenset({REQUEST, ANSWER, STATUS, CANCEL})

# Size of the body, type, flags, code, call, size of text, size of metadata, number.
_HEAD = struct.Struct("<IBBHQIIQ")
HEAD_BYTES: Final = _HEAD.size
_HELLO = struct.Struct("<IIQ")
_PAIR = struct.Struct("<HI")

# Text and metadata together.
MOST_WORDS: Final = 64 << 10
# A larger payload that is not whole yet gets memory of its own.
_LARGE: Final = 64 << 10
# Holds a head with the longest text and metadata and the largest payload that is not large.
_BUFFER: Final = 256 << 10

_HALF = MOST_WORDS // 2
_LONGEST = (1 << 64) - 1
_LONGEST_KEY = (1 << 16) - 1
_NOWHERE = memoryview(b"")

_pack = _HEAD.pack
_unpack_from = _HEAD.unpack_from


class Malformed(Exception):
    """The peer sent what is no frame, or not now; its text says what."""


class TooLong(Exception):
    """More text and metadata than a frame holds."""


class Frame(NamedTuple):
    """One frame.

    Attributes:
        type: HELLO, REQUEST and so on.
        code: Of a HELLO the version; of a STATUS the status code.
        call: Which call it is about; 0 for the connection.
        number: Of a REQUEST the nanoseconds that it has left, 0 for no deadline; of PING and PONG
            what comes back.
        text: Of a REQUEST the method; of STATUS, DRAIN and CLOSE a sentence; of a HELLO who speaks.
        metadata: As `encode_metadata` makes it.
        payload: A serialized message; a large one as `bytearray`, that nobody else holds.
    """

    type: int
    code: int
    call: int
    number: int
    text: bytes
    metadata: bytes
    payload: bytes | bytearray


@dataclass(frozen=True, slots=True)
class Hello:
    """What each side says first.

    Attributes:
        largest: The largest payload that it takes, in bytes.
        calls: Calls that it takes at a time; 0 for who takes none.
        bytes: Bytes of requests that it takes at a time.
        version: Of the protocol.
        who: For logs.
    """

    largest: int
    calls: int = 0
    bytes: int = 0
    version: int = VERSION
    who: str = ""


def hello(greeting: Hello) -> bytes:
    """A HELLO."""
    text = NAME + b" " + greeting.who.encode()
    payload = _HELLO.pack(greeting.largest, greeting.calls, greeting.bytes)
    size = len(text) + len(payload)
    return _pack(size, HELLO, 0, greeting.version, 0, len(text), 0, 0) + text + payload


def read_hello(frame: Frame) -> Hello:
    """What a HELLO says; raises Malformed for one that is none, or of another version."""
    if frame.type != HELLO:
        raise Malformed(f"{_NAMES[frame.type]} comes before HELLO")
    if not frame.text.startswith(NAME):
        raise Malformed("the greeting is of another protocol")
    if frame.code != VERSION:
        raise Malformed(f"version {frame.code} is not spoken here, {VERSION} is")
    if len(frame.payload) != _HELLO.size:
        raise Malformed(f"HELLO has a payload of {len(frame.payload)} bytes, not {_HELLO.size}")
    largest, calls, most = _HELLO.unpack(frame.payload)
    who = frame.text[len(NAME) :].decode(errors="replace").strip()
    return Hello(largest, calls, most, frame.code, who)


def request(call: int, method: str, metadata: bytes, nanoseconds: int, payload: int) -> bytes:
    """A REQUEST up to its payload, of which the size is given; `nanoseconds` 0: no deadline.

    Raises:
        TooLong: Its method and metadata do not fit a frame.
    """
    text = method.encode()
    words = len(text) + len(metadata)
    if words > MOST_WORDS:
        raise TooLong(f"{words} bytes of method and metadata, {MOST_WORDS} at most")
    head = _pack(
        words + payload, REQUEST, 0, 0, call, len(text), len(metadata), min(nanoseconds, _LONGEST)
    )
    return head + text + metadata


def answer(call: int, payload: int) -> bytes:
    """An ANSWER up to its payload, of which the size is given."""
    return _pack(payload, ANSWER, 0, 0, call, 0, 0, 0)


def status(call: int, code: int, message: str, metadata: bytes) -> bytes:
    """A STATUS. A text that is too long is cut, and metadata that are too large left out."""
    text = message.encode()
    if len(text) + len(metadata) > MOST_WORDS:
        text = text[:_HALF]
        if len(metadata) > _HALF:
            metadata = b""
    size = len(text) + len(metadata)
    return _pack(size, STATUS, 0, code, call, len(text), len(metadata), 0) + text + metadata


def cancel(call: int) -> bytes:
    """A CANCEL."""
    return _pack(0, CANCEL, 0, 0, call, 0, 0, 0)


def ping(number: int) -> bytes:
    """A PING."""
    return _pack(0, PING, 0, 0, 0, 0, 0, number)


def pong(number: int) -> bytes:
    """A PONG; its number is the ping's."""
    return _pack(0, PONG, 0, 0, 0, 0, 0, number)


def drain(why: str) -> bytes:
    """A DRAIN."""
    return _told(DRAIN, why)


def close(why: str) -> bytes:
    """A CLOSE."""
    return _told(CLOSE, why)


def _told(kind: int, why: str) -> bytes:
    text = why.encode()[:_HALF]
    return _pack(len(text), kind, 0, 0, 0, len(text), 0, 0) + text


def encode_metadata(pairs: Iterable[tuple[str, str | bytes]]) -> bytes:
    """Pairs of key and value; what is under a key that ends in `-bin` arrives as bytes.

    Raises:
        TooLong: A key does not fit.
    """
    parts: list[bytes] = []
    for key, value in pairs:
        name = key.encode()
        content = value.encode() if isinstance(value, str) else value
        if len(name) > _LONGEST_KEY:
            raise TooLong(f"a metadata key of {len(name)} bytes, {_LONGEST_KEY} at most")
        parts += (_PAIR.pack(len(name), len(content)), name, content)
    return b"".join(parts)


def decode_metadata(block: bytes) -> Metadata:
    """The pairs; raises Malformed."""
    pairs: list[tuple[str, str | bytes]] = []
    at, end = 0, len(block)
    while at < end:
        if end - at < _PAIR.size:
            raise Malformed(f"metadata ends {end - at} bytes into a pair")
        name, content = _PAIR.unpack_from(block, at)
        at += _PAIR.size
        middle, after = at + name, at + name + content
        if after > end:
            raise Malformed(f"metadata of {end} bytes has a pair that ends at {after}")
        key = block[at:middle].decode(errors="replace")
        value = block[middle:after]
        pairs.append((key, value if key.endswith("-bin") else value.decode(errors="replace")))
        at = after
    return tuple(pairs)


class Parser:
    """Makes frames of bytes as they come.

    Put bytes where `space` says, and tell `received` how many.

    Args:
        largest: The largest payload that is taken, in bytes.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._view = memoryview(bytearray(_BUFFER))
        # What was received and is not parsed.
        self._end = 0
        # A frame whose payload is on its way, and that.
        self._frame: Frame | None = None
        self._rest = _NOWHERE

    def space(self) -> memoryview:
        """Where the next bytes go; never empty."""
        return self._rest if self._frame is not None else self._view[self._end :]

    def received(self, count: int) -> Iterator[Frame]:
        """The frames that became whole with `count` more bytes; take all of them.

        Raises:
            Malformed: No more can be made of what this peer sends.
        """
        if self._frame is not None:
            self._rest = self._rest[count:]
            if not self._rest:
                frame, self._frame = self._frame, None
                # An empty view of the payload would keep it.
                self._rest = _NOWHERE
                yield frame
            return
        view, start, end = self._view, 0, self._end + count
        while end - start >= HEAD_BYTES:
            size, kind, flags, code, call, text, words, number = _unpack_from(view, start)
            words += text
            if flags or not 0 < kind <= _LAST or words > MOST_WORDS or words > size:
                raise _fault(size, kind, flags, words)
            if (call == 0) is (kind in _OF_CALLS):
                raise Malformed(f"{_NAMES[kind]} of call {call}")
            payload = size - words
            most = self._largest if kind != HELLO else _HELLO.size
            if payload > most:
                raise Malformed(f"{_NAMES[kind]} has a payload of {payload} bytes, {most} at most")
            if payload and kind > ANSWER:
                raise Malformed(f"{_NAMES[kind]} has a payload")
            body = start + HEAD_BYTES
            middle, after = body + words, body + size
            if after > end:
                if payload > _LARGE and middle <= end:
                    self._expect(kind, code, call, number, view[body:end], text, words, payload)
                    start = end
                break
            yield Frame(
                kind,
                code,
                call,
                number,
                bytes(view[body : body + text]),
                bytes(view[body + text : middle]),
                bytes(view[middle:after]),
            )
            start = after
        left = end - start
        if start and left:
            view[:left] = bytes(view[start:end])
        self._end = left

    def _expect(
        self,
        kind: int,
        code: int,
        call: int,
        number: int,
        body: memoryview,
        text: int,
        words: int,
        payload: int,
    ) -> None:
        """Gives a payload memory of its own; `body` is what there is of the frame's."""
        own = bytearray(payload)
        here = len(body) - words
        own[:here] = body[words:]
        self._frame = Frame(
            kind, code, call, number, bytes(body[:text]), bytes(body[text:words]), own
        )
        self._rest = memoryview(own)[here:]


def _fault(size: int, kind: int, flags: int, words: int) -> Malformed:
    """What is wrong with a head that is wrong."""
    if not 0 < kind <= _LAST:
        return Malformed(f"a frame of the unknown type {kind}")
    name = _NAMES[kind]
    if flags:
        return Malformed(f"{name} has the unknown flags {flags:#04x}")
    if words > size:
        return Malformed(f"{name} has {words} bytes of text and metadata in a body of {size}")
    return Malformed(f"{name} has {words} bytes of text and metadata, {MOST_WORDS} at most")
