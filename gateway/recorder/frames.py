"""How the gateway and its recorder talk over their socket.

A frame is the length of its head, the head, and the payloads that are too large to be copied into
it. Both ends are of one installation and one interpreter, and nobody else holds the socket: so
`marshal` it is, which is the fastest.
"""

import asyncio
import marshal
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from modelyard.events.calls import Facts, Payload

# From the gateway: how to record (settings, as JSON); calls; one event (a number, model, bytes);
# and that no more comes.
SETTINGS, CALLS, EVENT, END = "settings", "calls", "event", "end"
# From the recorder: that it takes calls, or the message and the field of what it was told wrongly;
# how many records were written and dropped since, and the bytes of their payloads; what became of
# an event: its number, its id or "", and what failed or "".
READY, REFUSED, DONE, WROTE = "ready", "refused", "done", "wrote"

_LENGTH: Final = struct.Struct(">I")
# A payload of so many bytes goes beside the head.
_LARGE: Final = 64 << 10


def pack(kind: str, value: Any = None) -> list[bytes]:
    """A frame, in pieces; the value of CALLS is Facts, one after the other."""
    beside: list[bytes] = []
    if kind == CALLS:
        value = [_row(facts, beside) for facts in value]
    head = marshal.dumps((kind, value, [len(payload) for payload in beside]))
    return [_LENGTH.pack(len(head)), head, *beside]


async def read(reader: asyncio.StreamReader) -> tuple[str, Any] | None:
    """The next frame's kind and value; None where the other end is gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        head = await reader.readexactly(length)
        kind, value, sizes = marshal.loads(head)  # noqa: S302 of our own process
        beside = [await reader.readexactly(size) for size in sizes]
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    if kind == CALLS:
        value = [Facts(*row) for row in (_whole(value, beside) if beside else value)]
    return kind, value


def _row(facts: Facts, beside: list[bytes]) -> tuple[Any, ...]:
    if facts.size < _LARGE:
        return tuple(facts)
    return (*facts[:-2], *(_place(payload, beside) for payload in facts[-2:]))


def _place(payload: bytes | Payload, beside: list[bytes]) -> bytes | int:
    # The other end is who puts aside and takes out.
    assert not isinstance(payload, Payload)
    if len(payload) < _LARGE:
        return payload
    beside.append(payload)
    return len(beside) - 1


def _whole(rows: Iterable[Sequence[Any]], beside: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        payloads = (beside[held] if isinstance(held, int) else held for held in row[-2:])
        yield (*row[:-2], *payloads)
