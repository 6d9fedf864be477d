"""What is handed on to the server behind, and how it ends."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from gateway.fronts import relay, wire
from gateway.fronts.asgi import Headers
from gateway.fronts.relay import Relay

LIMIT = 1 << 20


class Over:
    """A call that has ended, as grpc.aio tells it to who writes."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def write(self, message: bytes) -> None:
        raise self._error

    async def done_writing(self) -> None:
        raise self._error


@pytest.mark.parametrize("error", [grpc.aio.InternalError(), asyncio.InvalidStateError()])
@pytest.mark.parametrize("body", [b"", wire.framed(b"x")])
async def test_a_call_that_is_over_is_no_defect_to_who_still_writes(
    error: Exception, body: bytes
) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    await relay._ask(Over(error), wire.Messages(LIMIT), receive)


class Breaking:
    """A channel whose calls end while they are read, and say so as grpc.aio's core does."""

    def stream_stream(self, method: str) -> Any:
        return lambda **_: self

    async def initial_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def read(self) -> bytes:
        raise grpc.aio.InternalError("Internal error from Core")

    async def write(self, message: bytes) -> None:
        raise asyncio.InvalidStateError

    async def done_writing(self) -> None:
        raise asyncio.InvalidStateError

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    async def details(self) -> str:
        return "the server ends"

    async def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-why", "so"),)

    def cancel(self) -> bool:
        return False


async def test_however_a_read_says_that_the_call_is_over_its_status_is_told() -> None:
    exchange = Exchange(b"")
    channel: Any = Breaking()
    await Relay(channel, LIMIT).answer("/a/b", Headers([]), exchange.receive, exchange.send)
    assert exchange.told() == {
        b"grpc-status": b"14",
        b"grpc-message": b"the server ends",
        b"x-why": b"so",
    }


class Echo(grpc.GenericRpcHandler):
    """Answers every message with itself, and a message `fail` with an error."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._echo)

    async def _echo(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        sent = dict(context.invocation_metadata())
        await context.send_initial_metadata((("x-begun", "yes"),))
        async for request in requests:
            if request == b"fail":
                await context.abort(grpc.StatusCode.ABORTED, "as asked", (("x-why", "so"),))
            yield request
        context.set_trailing_metadata((("x-user", str(sent.get("x-user"))),))


class Exchange:
    """A caller."""

    def __init__(self, *bodies: bytes) -> None:
        self._bodies = list(bodies)
        self.events: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        body = self._bodies.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(self._bodies)}

    async def send(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def told(self) -> dict[bytes, bytes]:
        return dict([e for e in self.events if "headers" in e][-1]["headers"])

    def messages(self) -> list[bytes]:
        parsed = wire.Messages(LIMIT)
        return [m for e in self.events if "body" in e for m in parsed.feed(e["body"])]


async def relayed(exchange: Exchange, *headers: tuple[bytes, bytes]) -> Exchange:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            given = Headers([(b"content-type", b"application/grpc"), *headers])
            relaying = Relay(channel, LIMIT)
            await relaying.answer("/any.Service/Method", given, exchange.receive, exchange.send)
    finally:
        await server.stop(None)
    return exchange


async def test_messages_and_metadata_go_both_ways() -> None:
    sent = [wire.framed(b"one"), wire.framed(b"two") + wire.framed(b""), b""]
    exchange = await relayed(Exchange(*sent), (b"x-user", b"anna"))
    assert exchange.messages() == [b"one", b"two", b""]
    assert (b"x-begun", b"yes") in exchange.events[0]["headers"]
    assert exchange.told() == {b"grpc-status": b"0", b"x-user": b"anna"}


async def test_a_failure_is_told_with_its_metadata() -> None:
    exchange = await relayed(Exchange(wire.framed(b"one"), wire.framed(b"fail")))
    assert exchange.messages() == [b"one"]
    told = exchange.told()
    assert (told[b"grpc-status"], told[b"grpc-message"], told[b"x-why"]) == (
        b"10",
        b"as asked",
        b"so",
    )


@pytest.mark.parametrize(
    ("body", "header", "status"),
    [
        (b"\x07\x00\x00\x00\x00", (b"x", b"y"), b"13"),
        (b"\x00\x7f\x00\x00\x00", (b"x", b"y"), b"8"),
        (wire.framed(b"x")[:3], (b"x", b"y"), b"13"),
        (wire.framed(b"x"), (b"grpc-timeout", b"soon"), b"13"),
        (wire.framed(b"x"), (b"grpc-encoding", b"zither"), b"12"),
    ],
)
async def test_what_is_no_call_is_refused_here(
    body: bytes, header: tuple[bytes, bytes], status: bytes
) -> None:
    exchange = await relayed(Exchange(body), header)
    assert exchange.told()[b"grpc-status"] == status
