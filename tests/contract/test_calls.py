"""`modelyard.calls.answer` over a real server: answers, errors, and the end of a call given up."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from modelyard.calls import answer, stop

Method = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


class Server:
    """Echoes, refuses, or works until it is stopped, and tells which."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.stopped = asyncio.Event()

    async def handle(
        self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> bytes:
        if request == b"refuse":
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no")
        if request == b"work":
            self.began.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.stopped.set()
        return request


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, Method]]:
    servant = Server()
    handler = grpc.unary_unary_rpc_method_handler(servant.handle)  # type: ignore[arg-type]  # the stubs know no coroutines here
    grpc_server = grpc.aio.server()
    grpc_server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Calls", {"Do": handler}),)
    )
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield servant, channel.unary_unary("/test.Calls/Do")
    await grpc_server.stop(0)


async def test_gives_the_answer(server: tuple[Server, Method]) -> None:
    assert await answer(server[1](b"hello")) == b"hello"


async def test_raises_what_the_server_said(server: tuple[Server, Method]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer(server[1](b"refuse"))
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "no",
    )


async def test_raises_when_the_deadline_ends(server: tuple[Server, Method]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer(server[1](b"work", timeout=0.05))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(10):
        await server[0].stopped.wait()


async def test_a_cancelled_await_stops_the_server(server: tuple[Server, Method]) -> None:
    waiting = asyncio.create_task(answer(server[1](b"work")))
    async with asyncio.timeout(10):
        await server[0].began.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await server[0].stopped.wait()


async def test_stop_ends_a_call_that_nobody_awaits(server: tuple[Server, Method]) -> None:
    call = server[1](b"work")
    async with asyncio.timeout(10):
        await server[0].began.wait()
        stop(call)
        await server[0].stopped.wait()
    assert call.cancelled()
