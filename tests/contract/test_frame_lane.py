"""The frame lane beside peers that are slow, gone, of another mind, or told to end."""

import asyncio
import gc
import random
import signal
import tempfile
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.call import INFER
from gateway.lanes.failures import failure
from gateway.lanes.frame_lane import FrameEndpoint
from modelyard import frames
from modelyard.errors import DeadlineExceeded, HostGone, MessageTooLarge
from modelyard.frames import Hello
from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.names import VersionName
from services.inference.host.frame_front import FrameFront
from services.inference.host.service import ModelService
from tests.kit import graphs
from tests.kit.endpoints import CallableEndpoint, answers
from tests.kit.host import arrays_of, request
from tests.kit.lanes import endpoint, framed_host, frames_address
from tests.kit.scripted import Peer, greeted, scripted_host

HELLO = frames.hello(Hello(1 << 20, 8, 1 << 22, who="a script"))


@asynccontextmanager
async def asking(
    address: str, beside: CallableEndpoint | None = None, largest: int = 1 << 20
) -> AsyncIterator[FrameEndpoint]:
    made = FrameEndpoint(
        address, largest, None if beside is None else lambda: beside, random.Random(1)
    )
    try:
        yield made
    finally:
        await made.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def write(folder: Path, model: Any) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


# Room.


async def test_who_waits_no_more_for_room_is_in_nobodys_way() -> None:
    sizes: list[int] = []

    async def script(peer: Peer) -> None:
        peer.write(frames.hello(Hello(1 << 20, 8, 1000)))
        await peer.expect(frames.HELLO)
        while (frame := await peer.frame()) is not None:
            if frame.type == frames.REQUEST:
                sizes.append(len(frame.payload))

    async with scripted_host(script) as address, asking(address) as asked:
        first = asyncio.ensure_future(asked.call(INFER, bytes(900), (), 60.0))
        await until(lambda: sizes == [900])
        too_much = asyncio.ensure_future(asked.call(INFER, bytes(500), (), 60.0))
        late = asyncio.ensure_future(asked.call(INFER, bytes(500), (), 0.1))
        small = asyncio.ensure_future(asked.call(INFER, bytes(50), (), 60.0))
        with pytest.raises(DeadlineExceeded):
            await late
        assert sizes == [900], "calls come in their order"
        too_much.cancel()
        await until(lambda: sizes == [900, 50])
        for call in (first, small):
            call.cancel()
        await asyncio.wait([first, small, too_much])


async def test_more_metadata_than_a_frame_holds_cost_that_call_alone(tmp_path: Path) -> None:
    with framed_host(write(tmp_path, graphs.identity()), tmp_path) as host:
        payload = request("m", {"x": np.ones(3, np.float32)}).SerializeToString()
        async with endpoint(host, "frames") as asked:
            beside = asyncio.ensure_future(asked.call(INFER, payload, (), 30.0))
            for metadata in ((("x-many", "v" * 70_000),), (("k" * 70_000, "v"),)):
                with pytest.raises(MessageTooLarge):
                    await asked.call(INFER, payload, metadata, 30.0)
            answer = pb.ModelInferResponse.FromString(await beside)
            assert arrays_of(answer)["y"].tolist() == [1, 1, 1]


async def test_who_asks_and_does_not_listen_piles_up_no_answers() -> None:
    pongs: list[int] = []
    pings = 200_000

    async def script(peer: Peer) -> None:
        peer.write(HELLO)
        await peer.expect(frames.HELLO)
        for start in range(0, pings, 1000):
            peer.write(*(frames.ping(n + 1) for n in range(start, start + 1000)))
            await peer.writer.drain()
        while not pongs or pongs[-1] != pings:
            pongs.append((await peer.expect(frames.PONG)).number)

    async with scripted_host(script) as address, asking(address) as asked:
        await until(lambda: asked.lane == "frames")
        await until(lambda: pongs and pongs[-1] == pings)
    assert pongs == sorted(pongs)
    assert len(pongs) < pings / 4


# Ends.


async def test_a_drain_hands_large_answers_over_to_who_reads_slowly(tmp_path: Path) -> None:
    x = np.arange(4 << 20, dtype=np.float32)
    payload = request("m", {"x": x}).SerializeToString()
    limits = ("--max-message-bytes", str(64 << 20), "--drain-propagation", "0")
    with framed_host(write(tmp_path, graphs.identity()), tmp_path, arguments=limits) as host:
        peer = await greeted(frames_address(host))
        peer.write(frames.request(1, INFER, b"", 0, len(payload)), payload)
        # The first bytes of the answer are there: the rest waits at the host.
        async with asyncio.timeout(30):
            assert await peer.feed(1)
        host.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(host.wait_stage, "draining")
        # Longer than what is left of an ended connection lives.
        await asyncio.sleep(2.0)
        last = await peer.until_end()
        assert [f.type for f in last] == [frames.ANSWER, frames.DRAIN, frames.CLOSE]
        answer = pb.ModelInferResponse.FromString(bytes(last[0].payload))
        assert np.array_equal(arrays_of(answer)["y"], x)
        peer.close()
        assert await asyncio.to_thread(host.process.wait, 30) == 0


async def test_a_host_that_drains_as_it_greets_is_left() -> None:
    ended = asyncio.Event()

    async def script(peer: Peer) -> None:
        peer.write(HELLO, frames.drain("at once"))
        assert [f.type for f in await peer.until_end()][-1] == frames.CLOSE
        ended.set()
        await peer.until_end()

    async with scripted_host(script) as address, asking(address) as asked:
        async with asyncio.timeout(30):
            await ended.wait()
        with pytest.raises(HostGone):
            await asked.call(INFER, b"", (), 5.0)


async def test_right_after_its_end_another_lane_is_asked() -> None:
    async def script(peer: Peer) -> None:
        peer.write(HELLO)
        await peer.expect(frames.HELLO)
        await peer.expect(frames.REQUEST)

    beside = CallableEndpoint(answers(b"by grpc"))
    async with scripted_host(script) as address, asking(address, beside) as asked:
        for _ in range(5):
            await until(lambda: asked.lane == "frames")
            with pytest.raises(HostGone):
                await asked.call(INFER, b"", (), 30.0)
            assert asked.lane == "grpc"
            assert await asked.call(INFER, b"", (), 30.0) == b"by grpc"


async def test_a_path_that_can_be_none_is_not_asked() -> None:
    beside = CallableEndpoint(answers(b"by grpc"))
    async with asking("unix:/a\0b", beside) as asked:
        assert await asked.call(INFER, b"", (), 30.0) == b"by grpc"
        assert asked.lane == "grpc"


@pytest.mark.parametrize("digits", [13, 400, 5000])
def test_a_pushback_beyond_all_numbers_is_for_ever(digits: int) -> None:
    error = failure(14, "no", (("grpc-retry-pushback-ms", "9" * digits),))
    assert error.pushback == float("inf")


async def test_a_closed_connection_gives_its_memory_back_at_once() -> None:
    def parsers() -> int:
        return sum(isinstance(held, frames.Parser) for held in gc.get_objects())

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO)
        await reader.read()
        writer.close()

    with tempfile.TemporaryDirectory(prefix="lane-") as short:
        server = await asyncio.start_unix_server(greet, f"{short}/s")
        gc.collect()
        gc.disable()
        try:
            before = parsers()
            for _ in range(5):
                async with asking(f"unix:{short}/s") as asked:
                    await until(lambda asked=asked: asked._connection is not None)
            await until(lambda: parsers() == before)
        finally:
            gc.enable()
            server.close()


async def test_a_host_keeps_a_request_once() -> None:
    """Its bytes go when they are parsed, however long the call then waits for its run."""
    running, over = asyncio.Event(), asyncio.Event()

    class Slow(ModelService):
        async def infer(self, *_: Any) -> pb.ModelInferResponse:
            running.set()
            await over.wait()
            return pb.ModelInferResponse(id="done")

    payload = request("m", {"x": np.zeros(2 << 20, np.float32)}).SerializeToString()
    with tempfile.TemporaryDirectory(prefix="lane-") as short:
        engine: Any = None
        service = Slow(VersionName("m", 1), engine)
        front = FrameFront(service, f"unix:{short}/f.sock", 16 << 20)
        async with asking(await front.start(), largest=16 << 20) as asked:
            await until(lambda: asked.lane == "frames")
            tracemalloc.start()
            try:
                call = asyncio.ensure_future(asked.call(INFER, payload, (), 60.0))
                await running.wait()
                await asyncio.sleep(0)
                kept, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            # What protobuf holds is not traced.
            assert kept < len(payload) / 2
            over.set()
            assert pb.ModelInferResponse.FromString(await call).id == "done"
            await front.stop(5.0)
