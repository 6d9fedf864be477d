"""Hostile callers at a front, while honest ones call it beside them."""

import asyncio
import contextlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import grpc.aio
import hpack
import numpy as np

from benchmarks.fuzz import floods, http2, requests
from benchmarks.fuzz.host_side import request
from benchmarks.fuzz.http2 import Frame, Reader
from benchmarks.load import METHOD
from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.metadata import REQUEST_ID

HOSTILE, HONEST = 48, 2
# Of who is beside: no hostile caller may ever see it.
SECRET = "beside-"
# Of hostile callers: each has its own, and no other may see it.
_TOKEN = re.compile(rb"beside-|hostile-[0-9a-f]{16}")
_TOKEN_BYTES = 24
# Honest calls have so long, and so long a hostile connection may last: a front that does not read,
# or does not close what is over, is found by it.
_DEADLINE = 20.0
_PATIENCE = 60.0
# So long a hostile caller waits for a sign of life; then what it sent is not whole to the front.
_PAUSE = 0.2
ANOTHER = "another protocol"
# What no request may make a front, or a host behind it, write into its log.
_COMPLAINTS = ("Traceback", "internal error", '"level": "error"', "panicked", "[critical]")
# grpc's words of what callers did: metadata that are no text, an answer that nobody took.
_OF_CALLERS = ("Invalid encoding on ", "ExecuteBatchError raised in core by servicer method")
# An honest caller takes a new connection after so many calls.
_ANEW = 100


@dataclass
class Found:
    """What was done, and what came of it.

    Attributes:
        cases: What was sent and is not right, by kind; a flood is one.
        connections: Hostile ones.
        ends: How they ended.
        answers: How streams of theirs ended.
        honest: Calls of honest callers, each with its own answer.
        faults: What must not be.
    """

    cases: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    honest: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def mutated(self) -> int:
        """How many cases."""
        return self.cases.total()


async def attack(
    address: str,
    count: int,
    seed: int,
    found: Found,
    each: Callable[[], None] | None = None,
    text_paths: bool = False,
) -> None:
    """Sends so many cases.

    Args:
        address: `host:port` of a front that has an identity model `m` and takes messages of
            `requests.LARGEST` bytes.
        count: Of cases.
        seed: The same one sends the same.
        found: Is filled.
        each: Called after each connection.
        text_paths: Send no path that is not UTF-8: of such grpc.aio breaks down (see
            `modelyard.server`), which whoever is beside cannot but notice.
    """
    ending = asyncio.Event()
    owners: dict[bytes, int] = {}

    async def hostile(number: int) -> None:
        chance = random.Random(f"{seed}-{number}")
        while found.mutated < count and not found.faults:
            try:
                await _session(address, chance, owners, found, text_paths)
            except OSError as error:
                if isinstance(error, TimeoutError):
                    found.faults.append(f"a front neither read nor closed within {_PATIENCE:g} s")
                found.ends[f"{type(error).__name__}"] += 1
            if each is not None:
                each()

    async def all_hostile() -> None:
        try:
            await asyncio.gather(*(hostile(number) for number in range(HOSTILE)))
        finally:
            ending.set()

    await asyncio.gather(
        all_hostile(), *(_honest(address, number, ending, found) for number in range(HONEST))
    )


def complaints(log: str) -> list[str]:
    """The lines of a log that tell of a defect."""
    return [
        line
        for line in log.splitlines()
        if any(word in line for word in _COMPLAINTS)
        and not any(word in line for word in _OF_CALLERS)
    ]


async def _honest(address: str, number: int, ending: asyncio.Event, found: Found) -> None:
    chance = np.random.default_rng(number)
    options = (("grpc.use_local_subchannel_pool", 1),)
    while not ending.is_set():
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            infer = channel.unary_unary(METHOD)
            for _ in range(_ANEW):
                if ending.is_set():
                    return
                marker = f"{SECRET}{number}-{found.honest}"
                values = chance.standard_normal(int(chance.choice((1, 64, 30_000))), np.float32)
                told = ((REQUEST_ID, marker),)
                call = infer(request(marker, values), timeout=_DEADLINE, metadata=told)
                try:
                    answer = pb.ModelInferResponse.FromString(await call)
                    trailing = dict(await call.trailing_metadata())
                except grpc.aio.AioRpcError as error:
                    found.faults.append(f"an honest call failed: {error.code()} {error.details()}")
                    return
                if answer.id != marker or answer.raw_output_contents[0] != values.tobytes():
                    found.faults.append(f"{marker} was answered with {answer.id!r}")
                if trailing.get(REQUEST_ID) != marker:
                    found.faults.append(f"{marker} was told {trailing.get(REQUEST_ID)!r}")
                found.honest += 1


class _Peer:
    """What a hostile caller is sent."""

    def __init__(self, number: int, owners: dict[bytes, int], found: Found) -> None:
        # SETTINGS that were sent, the opening's among them, and those that were acknowledged.
        self.settings, self.acknowledged = 1, 0
        self.end, self.going = "closed without a word", False
        self._number, self._owners, self._found = number, owners, found
        self._tails: dict[int, bytes] = {}

    async def listen(self, reader: asyncio.StreamReader, http2_spoken: bool) -> None:
        """Reads until the connection ends."""
        parser: Reader | None = Reader() if http2_spoken else None
        with contextlib.suppress(ConnectionError):
            while received := await reader.read(1 << 16):
                if parser is None:
                    self._look(0, received)
                    continue
                try:
                    for frame in parser.feed(received):
                        self._take(frame)
                except hpack.HPACKError as error:
                    self._found.faults.append(f"a front sent headers that are none: {error!r}")
                    return

    def _take(self, frame: Frame) -> None:
        answers = self._found.answers
        match frame.kind:
            case http2.DATA:
                self._look(frame.stream, frame.payload)
            case http2.HEADERS | http2.MORE if frame.headers:
                for name, value in frame.headers:
                    self._look(-1, name + b" " + value)
                told = dict(frame.headers)
                status = told.get(b"grpc-status", b"").decode("latin-1")
                if status:
                    answers[f"status {status}"] += 1
                elif told.get(b":status", b"200") != b"200":
                    answers[f"HTTP {told[b':status'].decode('latin-1')}"] += 1
            case http2.RST_STREAM:
                answers[f"reset, {http2.error(int.from_bytes(frame.payload, 'big'))}"] += 1
            case http2.SETTINGS if frame.flags & http2.ACK:
                self.acknowledged += 1
            case http2.GOAWAY:
                self.going = True
                self.end = f"GOAWAY, {http2.error(int.from_bytes(frame.payload[4:8], 'big'))}"

    def _look(self, stream: int, part: bytes) -> None:
        """Looks for what is another's; a stream's data may be cut anywhere."""
        seen = self._tails.get(stream, b"") + part if stream > 0 else part
        for token in _TOKEN.findall(seen):
            if self._owners.get(token, self._number if token != b"beside-" else -1) != self._number:
                self._found.faults.append(f"a hostile caller was sent another's {token!r}")
        if stream > 0:
            self._tails[stream] = seen[1 - _TOKEN_BYTES :]


async def _session(
    address: str, chance: random.Random, owners: dict[bytes, int], found: Found, text_paths: bool
) -> None:
    """One hostile connection."""
    host, _, port = address.rpartition(":")
    found.connections += 1
    number, marker = found.connections, b"hostile-%016x" % chance.getrandbits(64)
    owners[marker] = number
    async with asyncio.timeout(_PATIENCE):
        reader, writer = await asyncio.open_connection(host, int(port))
        peer = _Peer(number, owners, found)
        other = chance.random() < 0.04
        listening = asyncio.ensure_future(peer.listen(reader, http2_spoken=not other))
        try:
            talk = _other_protocol(chance, marker) if other else _conversation(chance, marker)
            if text_paths:
                talk = (case for case in talk if http2.paths_are_text(case[1]))
            whole = await _talk(chance, talk, writer, peer, listening, found)
            # Some leave without a word, some wait for the other side's end; so it must come.
            if chance.random() < 0.3:
                with contextlib.suppress(OSError):  # it is closed already
                    writer.write_eof()
                await listening
            elif not peer.going and not listening.done():
                peer.end = "left"
            if not whole:
                peer.end += ", after waiting for more"
        finally:
            listening.cancel()
            writer.transport.abort()
            await asyncio.wait([listening])
    if not listening.cancelled() and (error := listening.exception()) is not None:
        raise error
    found.ends[peer.end] += 1


async def _talk(
    chance: random.Random,
    talk: Iterator[tuple[str, bytes]],
    writer: asyncio.StreamWriter,
    peer: _Peer,
    listening: "asyncio.Future[None]",
    found: Found,
) -> bool:
    """Sends case after case; False where the last is not whole to the front, which waits."""
    # One that closes while it is written to has said why.
    with contextlib.suppress(ConnectionError):
        for kind, sent in talk:
            if listening.done() or peer.going:
                break
            if kind:
                found.cases[kind] += 1
            await _write(chance, writer, sent)
            if kind != ANOTHER and not await _alive(writer, peer, listening):
                return False
    return True


async def _write(chance: random.Random, writer: asyncio.StreamWriter, sent: bytes) -> None:
    cut = chance.randrange(len(sent) + 1) if chance.random() < 0.2 else len(sent)
    writer.write(sent[:cut])
    await writer.drain()
    if cut < len(sent):
        await asyncio.sleep(0)
        writer.write(sent[cut:])
        await writer.drain()


async def _alive(
    writer: asyncio.StreamWriter, peer: _Peer, listening: "asyncio.Future[None]"
) -> bool:
    """Waits until the front has read all of it, or ended the connection; False where it did not.

    By SETTINGS, which both fronts acknowledge in their order; pings they count.
    """
    peer.settings += 1
    writer.write(http2.settings())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PAUSE):
            while peer.acknowledged < peer.settings and not (peer.going or listening.done()):
                await asyncio.sleep(0.001)
            return True
    return False


def _conversation(chance: random.Random, marker: bytes) -> Iterator[tuple[str, bytes]]:
    """What one hostile caller sends, a case at a time."""
    opening = http2.PREFACE + http2.settings((4, 1 << 24))
    opening += http2.frame(http2.WINDOW_UPDATE, payload=(1 << 30).to_bytes(4, "big"))
    if chance.random() < 0.03:
        yield "opening", http2.garble(chance, opening)
    else:
        yield "", opening
    stream = 1
    for _ in range(chance.randrange(1, 30)):
        weight = chance.random()
        if weight < 0.01:
            kind, frames = floods.flood(chance, stream, marker)
            stream += 2 * len(frames)
        elif weight < 0.2:
            kind, frames = "frames in a wrong place", floods.odd(chance, stream, marker)
        elif weight < 0.45:
            kind = "frames, mutated"
            frames = floods.call(stream, requests.good(marker))
            at, other = chance.randrange(len(frames)), chance.choice(frames)
            frames[at] = http2.mutate(chance, frames[at], other)
        elif weight < 0.5:
            kind, frames = "", floods.call(stream, requests.good(marker))
        else:
            made = requests.odd(chance, marker)
            kind, frames = made.kind, floods.call(stream, made)
        yield kind, b"".join(frames)
        stream += 2


def _other_protocol(chance: random.Random, marker: bytes) -> Iterator[tuple[str, bytes]]:
    """What is no HTTP/2."""
    body = requests.message(marker)
    right = (
        b"POST /v2/models/m/infer HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\nx-request-id: %s\r\n\r\n" % (len(body), marker)
    ) + body
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(500)
    sent = chance.choice((right, hello, http2.PREFACE[:18] + right, chance.randbytes(400)))
    yield ANOTHER, http2.garble(chance, sent)
