"""Calls over a real server, by every way of `modelyard.calls`: answers, errors, giving up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest

from modelyard.calls import Metadata, Method, answer, stop

PATH = "/test.Calls/Do"
Send = Callable[..., Awaitable[bytes]]


@dataclass
class Server:
    """Echoes, refuses, or works until it is stopped, and tells which."""

    began: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    metadata: dict[str, str | bytes] = field(default_factory=dict)
    remaining: float | None = None

    async def handle(
        self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> bytes:
        self.metadata = dict(context.invocation_metadata() or ())
        self.remaining = context.time_remaining()
        if request == b"refuse":
            trailing = (("x-why", "so"), ("x-more-bin", b"\x00\xff"))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no", trailing)
        if request == b"work":
            self.began.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.stopped.set()
        return request


@dataclass
class World:
    server: Server
    channel: grpc.aio.Channel
    grpc_server: grpc.aio.Server

    def sends(self, way: str) -> Send:
        """A way to call: with grpc.aio's call object, or by its core, or where that is absent."""
        if way == "call object":
            public = self.channel.unary_unary(PATH)

            async def send(payload: bytes, timeout: float, metadata: Metadata = ()) -> bytes:
                given: Any = public(payload, timeout=timeout, metadata=metadata)
                response: bytes = await answer(given)
                return response

            return send
        method = Method(self.channel, PATH)
        assert method._core is not None
        if way == "core absent":
            method._core = None
        return method


WAYS = pytest.mark.parametrize("way", ["call object", "core", "core absent"])


@pytest.fixture
async def world() -> AsyncIterator[World]:
    servant = Server()
    handler: Any = grpc.unary_unary_rpc_method_handler(servant.handle)  # type: ignore[arg-type]  # the stubs know no coroutines here
    grpc_server = grpc.aio.server()
    grpc_server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Calls", {"Do": handler}),)
    )
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield World(servant, channel, grpc_server)
    await grpc_server.stop(0)


@WAYS
@pytest.mark.parametrize("payload", [b"", b"hello", bytes(3 << 20)])
async def test_gives_the_answer(world: World, way: str, payload: bytes) -> None:
    assert await world.sends(way)(payload, 10.0) == payload


@WAYS
async def test_carries_metadata_and_the_deadline(world: World, way: str) -> None:
    await world.sends(way)(b"hello", 10.0, (("x-a", "1"), ("x-b-bin", b"\x00\xff")))
    assert (world.server.metadata["x-a"], world.server.metadata["x-b-bin"]) == ("1", b"\x00\xff")
    assert world.server.remaining is not None
    assert 5.0 < world.server.remaining < 11.0  # grpc rounds up


@WAYS
async def test_raises_what_the_server_said(world: World, way: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.sends(way)(b"refuse", 10.0)
    error = caught.value
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "no")
    trailing = dict(tuple(error.trailing_metadata() or ()))
    assert (trailing["x-why"], trailing["x-more-bin"]) == ("so", b"\x00\xff")


@WAYS
async def test_raises_when_nobody_is_there(world: World, way: str) -> None:
    await world.grpc_server.stop(0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.sends(way)(b"hello", 10.0)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@WAYS
async def test_raises_when_the_deadline_ends(world: World, way: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.sends(way)(b"work", 0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(10):
        await world.server.stopped.wait()


@WAYS
async def test_a_cancelled_await_stops_the_server(world: World, way: str) -> None:
    waiting = asyncio.ensure_future(world.sends(way)(b"work", 30.0))
    async with asyncio.timeout(10):
        await world.server.began.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await world.server.stopped.wait()


@WAYS
async def test_a_closed_channel_ends_no_program(world: World, way: str) -> None:
    send = world.sends(way)
    await world.channel.close()
    with pytest.raises((grpc.aio.UsageError, grpc.aio.AioRpcError)):
        await send(b"hello", 10.0)


async def test_a_method_that_is_stopped_ends_its_calls(world: World) -> None:
    method = Method(world.channel, PATH)
    waiting = asyncio.ensure_future(method(b"work", 30.0))
    async with asyncio.timeout(10):
        await world.server.began.wait()
        method.stop()
        await world.channel.close()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await waiting
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        await world.server.stopped.wait()


async def test_stop_ends_a_call_that_nobody_awaits(world: World) -> None:
    call: Any = world.channel.unary_unary(PATH)(b"work")
    async with asyncio.timeout(10):
        await world.server.began.wait()
        stop(call)
        await world.server.stopped.wait()
    assert call.cancelled()
