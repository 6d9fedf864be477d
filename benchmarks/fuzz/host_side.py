"""Hostile gateways against a host, while honest callers ask it beside them."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.fuzz.mutations import LARGEST, Reader, mutate, odd_metadata, reason
from gateway.call import INFER
from gateway.lanes.frame_lane import FrameEndpoint
from modelyard import frames
from modelyard.frames import Frame, Hello, Parser
from modelyard.inference.v2 import open_inference_pb2 as pb

HOSTILE, HONEST = 8, 2
# Who is beside; no hostile peer may ever see it.
SECRET = b"beside-"
_METHODS = (INFER, INFER, INFER, "ServerLive", "ModelMetadata", "ModelStatistics", "Nothing")
_PATIENCE = 30.0


@dataclass
class Found:
    """What was done, and what came of it.

    Attributes:
        mutated: Mutated frames that the other side read, or stopped at.
        connections: Hostile ones.
        ends: How they ended, by the reason that was given.
        frames: What the other side sent, by type.
        honest: Calls of honest callers, each with its own answer.
        faults: What must not be.
    """

    mutated: int = 0
    connections: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    frames: Counter[int] = field(default_factory=Counter)
    honest: int = 0
    faults: list[str] = field(default_factory=list)


async def attack(
    address: str,
    count: int,
    seed: int,
    found: Found,
    each: Callable[[], None] | None = None,
) -> None:
    """Sends so many mutated frames.

    Args:
        address: Of a host of an identity model `m`, that takes messages of LARGEST bytes.
        count: Of mutated frames.
        seed: The same one sends the same.
        found: Is filled.
        each: Called now and then.
    """
    ending = asyncio.Event()

    async def hostile(number: int) -> None:
        chance = random.Random(f"{seed}-{number}")
        while found.mutated < count and not found.faults:
            try:
                await _session(address, chance, found)
            except (ConnectionError, EOFError):
                found.ends["the connection broke"] += 1
            except TimeoutError:
                found.faults.append("a host neither read nor answered")
            if each is not None:
                each()

    async def all_hostile() -> None:
        await asyncio.gather(*(hostile(number) for number in range(HOSTILE)))
        ending.set()

    await asyncio.gather(
        all_hostile(), *(_honest(address, number, ending, found) for number in range(HONEST))
    )


def request(marker: str, values: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> bytes:
    """A call of the identity model."""
    message = pb.ModelInferRequest(model_name="m", id=marker)
    message.inputs.add(name="x", datatype="FP32", shape=values.shape)
    message.raw_input_contents.append(values.tobytes())
    return message.SerializeToString()


async def _honest(address: str, number: int, ending: asyncio.Event, found: Found) -> None:
    chance = np.random.default_rng(number)
    endpoint = FrameEndpoint(address, LARGEST, None, random.Random(number))
    try:
        while not ending.is_set():
            marker = f"{SECRET.decode()}{number}-{found.honest}"
            values = chance.standard_normal(int(chance.choice((1, 64, 30_000))), np.float32)
            reply = await endpoint.call(INFER, request(marker, values), (), _PATIENCE)
            answer = pb.ModelInferResponse.FromString(reply)
            if answer.id != marker or answer.raw_output_contents[0] != values.tobytes():
                found.faults.append(f"{marker} was answered with {answer.id!r}")
            found.honest += 1
    except Exception as error:  # whatever it is, an honest call failed
        found.faults.append(f"an honest call failed: {error!r}")
    finally:
        await endpoint.close()


async def _session(address: str, chance: random.Random, found: Found) -> None:
    async with asyncio.timeout(_PATIENCE):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
        found.connections += 1
        listening = asyncio.ensure_future(_listen(reader, found))
        try:
            for sent in _conversation(chance, found):
                cut = chance.randrange(len(sent) + 1) if chance.random() < 0.2 else len(sent)
                writer.write(sent[:cut])
                await writer.drain()
                if cut < len(sent):
                    await asyncio.sleep(0)
                    writer.write(sent[cut:])
            # Some leave without a word, some wait for the other side's.
            if chance.random() < 0.5:
                writer.write_eof()
                await listening
        finally:
            listening.cancel()
            writer.transport.abort()
            await asyncio.wait([listening])
    if not listening.cancelled() and (error := listening.exception()) is not None:
        raise error


def _conversation(chance: random.Random, found: Found) -> "list[bytes]":
    """What one hostile gateway sends, until the host reads no more."""
    reader, sent, call = _Host(), [], 0
    greeting = frames.hello(Hello(chance.choice((LARGEST, LARGEST, 100)), who="fuzz"))
    if chance.random() < 0.1:
        found.mutated += 1
        greeting = mutate(chance, greeting, frames.ping(1))
    reader.take(greeting)
    sent.append(greeting)
    values = np.full(chance.choice((1, 64, 20_000)), chance.random(), np.float32)
    for _ in range(chance.randrange(1, 60)):
        if reader.over:
            break
        call = max(call, reader.last) + 1
        payload = b"" if chance.random() < 0.3 else request("fuzz", values)
        block, left = odd_metadata(chance), chance.choice((0, 1, 10**9))
        whole = frames.request(call, chance.choice(_METHODS), block, left, len(payload)) + payload
        other = chance.choice(
            (frames.cancel(max(call - 1, 1)), frames.ping(call), frames.pong(call), whole)
        )
        frame = chance.choice((whole, whole, other))
        if chance.random() < 0.8:
            found.mutated += 1
            frame = mutate(chance, frame, other)
        reader.take(frame)
        sent.append(frame)
    return sent


class _Host(Reader):
    """The rules of a host, as docs/local-lane.md has them."""

    def __init__(self) -> None:
        super().__init__()
        self.last = 0
        self._greeted = False

    def take(self, sent: bytes) -> None:
        """Reads along."""
        for frame in self.read(sent):
            if not self._greeted:
                self._greeted = True
                try:
                    frames.read_hello(frame)
                except frames.Malformed:
                    self.over = True
            elif frame.type == frames.REQUEST:
                self.over = self.over or frame.call <= self.last or _is_malformed(frame)
                self.last = max(self.last, frame.call)
                # Higher ones there are none.
                self.over = self.over or self.last >= (1 << 64) - 2
            elif frame.type == frames.CANCEL:
                self.over = self.over or frame.call > self.last
            elif frame.type not in (frames.PING, frames.PONG):
                self.over = True


def _is_malformed(frame: Frame) -> bool:
    try:
        frames.decode_metadata(frame.metadata)
    except frames.Malformed:
        return True
    return False


async def _listen(reader: asyncio.StreamReader, found: Found) -> None:
    parser, tail = Parser(2 * LARGEST), b""
    while received := await reader.read(1 << 16):
        if SECRET in tail + received:
            found.faults.append("a hostile peer was sent what was another's")
        tail = received[-len(SECRET) :]
        while received:
            space = parser.space()
            count = min(len(space), len(received))
            space[:count] = received[:count]
            for frame in parser.received(count):
                found.frames[frame.type] += 1
                if frame.type == frames.CLOSE:
                    found.ends[reason(frame.text.decode(errors="replace"))] += 1
            received = received[count:]
