"""Hostile hosts against a gateway: each call gets what was sent to it, or an error."""

import asyncio
import contextlib
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.fuzz.host_side import Found
from benchmarks.fuzz.mutations import LARGEST, Reader, mutate, odd_metadata, reason
from gateway.call import INFER
from gateway.lanes.connection import Connection
from modelyard import frames
from modelyard.errors import ModelyardError
from modelyard.frames import Frame, Hello, Parser

AT_ONCE = 8
_CALLS = 6
_PATIENCE = 30.0
# So long a hostile host waits for more; then it leaves its calls alone.
_PAUSE = 0.02


@dataclass
class _Sent:
    """What was sent over one connection: calls' numbers by token, answers by number."""

    numbers: dict[bytes, int] = field(default_factory=dict)
    answers: dict[int, set[bytes]] = field(default_factory=dict)

    def may_have(self, token: bytes) -> set[bytes]:
        """What a call may have been given; a host may guess the number of one it has not read."""
        if token in self.numbers:
            return self.answers.get(self.numbers[token], set())
        known = set(self.numbers.values())
        return {a for n, answers in self.answers.items() if n not in known for a in answers}


# By the name of a connection, which its calls' tokens begin with.
_Log: TypeAlias = dict[bytes, _Sent]


async def attack(
    count: int, seed: int, found: Found, each: Callable[[], None] | None = None
) -> None:
    """Answers a gateway's connections with so many mutated frames; see `host_side.attack`."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(
        lambda _, context: found.faults.append(f"in the loop: {context.get('exception', context)}")
    )
    servants: set[asyncio.Task[None]] = set()
    log: _Log = {}
    chances = (random.Random(f"{seed}-host-{n}") for n in range(1 << 30))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(_host(next(chances), reader, writer, log, found))
        servants.add(task)
        task.add_done_callback(servants.discard)

    async def sessions(number: int) -> None:
        chance = random.Random(f"{seed}-gateway-{number}")
        tokens = 0
        while found.mutated < count and not found.faults:
            tokens += 1
            await _session(path, chance, f"{number}-{tokens}", log, found)
            if each is not None:
                each()

    with tempfile.TemporaryDirectory(prefix="fuzz-") as short:
        path = str(Path(short) / "f.sock")
        server = await asyncio.start_unix_server(connected, path)
        try:
            await asyncio.gather(*(sessions(number) for number in range(AT_ONCE)))
        finally:
            server.close()
            for task in tuple(servants):
                task.cancel()
            await asyncio.gather(*servants, return_exceptions=True)
            loop.set_exception_handler(before)


async def _session(path: str, chance: random.Random, name: str, log: _Log, found: Found) -> None:
    """One connection of a gateway, with a few calls at a time."""
    loop = asyncio.get_running_loop()
    transport, connection = await loop.create_unix_connection(lambda: Connection(LARGEST), path)
    found.connections += 1
    tokens = [f"{name} {n}".encode() for n in range(chance.randrange(1, _CALLS))]
    try:
        async with asyncio.timeout(_PATIENCE):
            await connection.known
            outcomes = await asyncio.gather(
                *(_call(connection, chance, token) for token in tokens), return_exceptions=True
            )
    except TimeoutError:
        found.faults.append("a gateway's connection or call has no end")
        return
    finally:
        was_open = not connection.ended
        connection.close("the session ends")
        transport.abort()
    sent = log.pop(name.encode(), _Sent())
    for token, outcome in zip(tokens, outcomes, strict=True):
        if isinstance(outcome, bytes):
            found.honest += 1
            if outcome not in sent.may_have(token):
                found.faults.append(f"call {token!r} was given what was not sent to it")
        elif not isinstance(outcome, ModelyardError | asyncio.CancelledError):
            found.faults.append(f"a call ended with {outcome!r}")
    if connection.pending:
        found.faults.append("a call is left at a connection that has ended")
    found.ends["the gateway" if was_open else reason(connection.ended)] += 1


async def _call(connection: Connection, chance: random.Random, token: bytes) -> bytes:
    call = connection.call(INFER, token, (), chance.choice((0.02, 0.1, 1.0)))
    if chance.random() < 0.8:
        return await call
    given_up = asyncio.ensure_future(call)
    await asyncio.sleep(0)
    given_up.cancel()
    return await given_up


async def _host(
    chance: random.Random,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    log: _Log,
    found: Found,
) -> None:
    """Greets, reads the calls that come, and answers as it likes."""
    try:
        own, sent = _Gateway(), _Sent()
        greeting = frames.hello(Hello(LARGEST, chance.choice((1, 4, 100)), LARGEST, who="fuzz"))
        if chance.random() < 0.1:
            found.mutated += 1
            greeting = mutate(chance, greeting, frames.ping(1))
        own.take(greeting, sent)
        writer.write(greeting)
        calls: dict[int, bytes] = {}
        parser = Parser(LARGEST)
        while not own.over and (received := await _more(chance, reader)):
            for frame in _parsed(parser, received):
                found.frames[frame.type] += 1
                if frame.type == frames.REQUEST:
                    token = bytes(frame.payload)
                    calls[frame.call] = token
                    sent.numbers[token] = frame.call
                    log[token.partition(b" ")[0]] = sent
            if not calls:
                continue
            for _ in range(chance.randrange(1, 12)):
                if own.over:
                    break
                frame_sent, other = _frame(chance, calls), _frame(chance, calls)
                if chance.random() < 0.8:
                    found.mutated += 1
                    frame_sent = mutate(chance, frame_sent, other)
                own.take(frame_sent, sent)
                writer.write(frame_sent)
            await writer.drain()
            if chance.random() < 0.3:
                return
    except ConnectionError:
        pass  # the gateway had enough
    finally:
        writer.transport.abort()


async def _more(chance: random.Random, reader: asyncio.StreamReader) -> bytes:
    """What comes; nothing once it has waited, as a rule."""
    if chance.random() < 0.01:
        return await reader.read(1 << 16)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PAUSE):
            return await reader.read(1 << 16)
    return b""


def _frame(chance: random.Random, calls: dict[int, bytes]) -> bytes:
    call = chance.choice(list(calls))
    payload = calls[call] + chance.randbytes(chance.choice((0, 10, 100_000)))
    text = chance.choice(("no", "é" * 100, ""))
    return chance.choice(
        (
            frames.answer(call, len(payload)) + payload,
            frames.answer(call, len(payload)) + payload,
            frames.status(call, chance.randrange(18), text, odd_metadata(chance)),
            frames.status(call, chance.randrange(18), text, odd_metadata(chance)),
            frames.ping(call),
            frames.drain(text) if chance.random() < 0.1 else frames.ping(1),
            frames.close(text) if chance.random() < 0.1 else frames.pong(call),
        )
    )


class _Gateway(Reader):
    """The rules of a gateway, as docs/local-lane.md has them; notes what is sent to whom."""

    def __init__(self) -> None:
        super().__init__()
        self._greeted = False

    def take(self, bytes_sent: bytes, sent: _Sent) -> None:
        """Reads along."""
        for frame in self.read(bytes_sent):
            if not self._greeted:
                self._greeted = True
                try:
                    self.over = not frames.read_hello(frame).calls
                except frames.Malformed:
                    self.over = True
            elif frame.type == frames.ANSWER:
                sent.answers.setdefault(frame.call, set()).add(bytes(frame.payload))
            elif frame.type in (frames.HELLO, frames.REQUEST, frames.CANCEL, frames.CLOSE):
                self.over = True


def _parsed(parser: Parser, received: bytes) -> list[Frame]:
    found: list[Frame] = []
    while received:
        space: Any = parser.space()
        count = min(len(space), len(received))
        space[:count] = received[:count]
        found += parser.received(count)
        received = received[count:]
    return found
