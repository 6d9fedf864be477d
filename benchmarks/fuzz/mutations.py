"""Frames as no honest peer sends them: made of honest ones, seeded, without I/O."""

import random
import re
import struct
from collections.abc import Iterator

from modelyard import frames
from modelyard.frames import HEAD_BYTES, Frame, Malformed, Parser

# What the parser on this side takes; the same as what the peers under fire take.
LARGEST = 1 << 20
_HEAD = struct.Struct("<IBBHQIIQ")
_BITS = (32, 8, 8, 16, 64, 32, 32, 64)
# Size of the body, size of the text, size of the metadata.
_SIZES = (0, 5, 6)
_CODE, _CALL, _NUMBER = 3, 4, 7
# How our own sentences about the end of a connection begin.
_OURS = re.compile(
    "(HELLO|REQUEST|ANSWER|STATUS|CANCEL|PING|PONG|DRAIN|CLOSE) |(a|an|the|no|more|metadata|call|"
    "version) .{6}"
)


def mutate(chance: random.Random, frame: bytes, other: bytes) -> bytes:
    """The frame, changed; `other` is one that parts may be taken of."""
    match chance.randrange(12):
        # Half of them leave a frame, so that the connection lives and what follows is read, too.
        case 0 | 1 | 2:
            return _fields(chance, frame, (_CODE, _NUMBER))
        case 3 | 4 | 5 if len(frame) > HEAD_BYTES:
            at = chance.randrange(HEAD_BYTES, len(frame))
            return frame[:at] + _bits(chance, frame[at:])
        case 6:
            return _fields(chance, frame, (_CALL,))
        case 7:
            return _fields(chance, frame, _SIZES)
        case 8:
            at = chance.randrange(len(frame))
            return frame[:at] + frame[at + chance.randrange(1, 40) :]
        case 9:
            at = chance.randrange(len(frame) + 1)
            return frame[:at] + chance.randbytes(chance.randrange(1, 60)) + frame[at:]
        case 10:
            return frame[:HEAD_BYTES] + other[HEAD_BYTES:]
        case _:
            return _bits(chance, frame)


def _fields(chance: random.Random, frame: bytes, among: "range | tuple[int, ...]") -> bytes:
    head = list(_HEAD.unpack_from(frame))
    for _ in range(chance.choice((1, 1, 1, 2))):
        field = chance.choice(among)
        bits = _BITS[field]
        head[field] = chance.choice(
            (
                0,
                1,
                (1 << bits) - 1,
                1 << chance.randrange(bits),
                max(head[field] - 1, 0),
                (head[field] + 1) % (1 << bits),
                chance.getrandbits(bits),
            )
        )
    return _HEAD.pack(*head) + frame[HEAD_BYTES:]


def _bits(chance: random.Random, part: bytes) -> bytes:
    changed = bytearray(part)
    for _ in range(chance.choice((1, 1, 2, 8))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


class Reader:
    """Reads along: what a peer under fire makes of the bytes, and whether it reads on."""

    def __init__(self) -> None:
        self._parser = Parser(LARGEST)
        self.over = False

    def read(self, sent: bytes) -> Iterator[Frame]:
        """The frames that became whole; `over` is set where none can follow."""
        while sent and not self.over:
            space = self._parser.space()
            count = min(len(space), len(sent))
            space[:count] = sent[:count]
            sent = sent[count:]
            try:
                yield from self._parser.received(count)
            except Malformed:
                self.over = True


def odd_metadata(chance: random.Random) -> bytes:
    """Metadata that a gateway might send, or a host."""
    return frames.encode_metadata(
        chance.choice(
            (
                (),
                (("modelyard-request-id", "r"),),
                (("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),),
                (("grpc-retry-pushback-ms", str(chance.getrandbits(40))),),
                (("grpc-status-details-bin", chance.randbytes(40)),),
                (("modelyard-target", "models/m/versions/1"), ("x-bin", b"\xff")),
            )
        )
    )


def reason(text: str) -> str:
    """Why a connection ended, without the numbers; what only the other side says is one reason."""
    if not _OURS.match(text):
        return "what the other side's CLOSE says"
    return re.sub("0x[0-9a-f]+|[0-9]+", "#", text)
