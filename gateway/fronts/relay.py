"""Hands a call of gRPC on to the grpc.aio server behind, whatever its method.

Messages stay bytes, and every call is taken as a stream both ways: a unary one is that, too.
"""

import asyncio
from typing import Any, Final

import grpc

from gateway.fronts import wire
from gateway.fronts.asgi import BASE, Headers, Receive, Send, messages_of, refuse
from modelyard.errors import Cancelled, ModelyardError
from modelyard.interceptors import as_ours
from modelyard.status import trailing_metadata

# What grpc.aio raises to who reads or writes on a call that is over, however that came.
_OVER: Final = (
    *(grpc.aio.AioRpcError, grpc.aio.InternalError, grpc.aio.UsageError),
    asyncio.InvalidStateError,
)


class Relay:
    """Relays calls.

    Args:
        channel: To the server behind.
        limit: Bytes that a message may have.
    """

    def __init__(self, channel: grpc.aio.Channel, limit: int) -> None:
        self._channel = channel
        self._limit = limit

    async def answer(self, path: str, headers: Headers, receive: Receive, send: Send) -> None:
        """Relays one call, and its end either way.

        Raises:
            OSError: The caller is gone.
        """
        try:
            timeout = wire.seconds(headers.timeout) if headers.timeout else None
            sent = tuple(p for p in wire.metadata(headers.passed) if p[0] != "user-agent")
            requests = wire.Messages(self._limit, headers.encoding)
            call: Any = self._channel.stream_stream(path)(timeout=timeout, metadata=sent)
        except ModelyardError as error:
            await refuse(send, error)
            return
        asking = asyncio.create_task(_ask(call, requests, receive))
        answer = _Answer(send)
        try:
            await answer.begin(_pairs(await call.initial_metadata()))
            while (message := await call.read()) is not grpc.aio.EOF:
                await answer.message(message)
            await answer.end(*await _end(call))
        except _OVER:
            # It is; should it not be, nothing more comes of it.
            call.cancel()
            await answer.end(*await _end(call))
        except asyncio.CancelledError:
            # By the caller; or by us, because of what the caller sent.
            if not asking.done() or asking.cancelled() or asking.exception() is None:
                raise
            await answer.fail(as_ours(asking.exception() or Cancelled(""), path, sent))
        finally:
            call.cancel()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


class _Answer:
    """What the caller is sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False

    async def begin(self, initial: wire.Metadata) -> None:
        """Headers, before the first message: whoever watches wants to know that it is heard."""
        self._begun = True
        headers = [*BASE, *wire.headers(initial)]
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        await self._send(start | {"trailers": True})
        await self._body(b"")

    async def message(self, message: bytes) -> None:
        """A message; returns once the caller took it."""
        await self._body(wire.framed(message))

    async def end(self, code: grpc.StatusCode, text: str | None, trailing: wire.Metadata) -> None:
        """The status."""
        if not self._begun:
            await self.begin(())
        status = wire.status(int(code.value[0]), text or "") + wire.headers(trailing)
        await self._send({"type": "http.response.trailers", "headers": status})

    async def fail(self, error: ModelyardError) -> None:
        """A status of ours."""
        if not self._begun:
            await refuse(self._send, error)
            return
        status = wire.status(int(error.code), error.message)
        sent = status + wire.headers(trailing_metadata(error))
        await self._send({"type": "http.response.trailers", "headers": sent})

    async def _body(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})


async def _end(call: Any) -> tuple[grpc.StatusCode, str | None, wire.Metadata]:
    """How a call ended."""
    return await call.code(), await call.details(), _pairs(await call.trailing_metadata())


async def _ask(call: Any, requests: wire.Messages, receive: Receive) -> None:
    """Carries the caller's messages."""
    try:
        async for message in messages_of(requests, receive):
            await call.write(message)
        await call.done_writing()
    except _OVER:
        # It is over, and whoever reads it knows more.
        return
    except ModelyardError:
        call.cancel()
        raise


def _pairs(metadata: Any) -> wire.Metadata:
    """Metadata as grpc.aio gives it; of its own it adds none."""
    return tuple((str(key), value) for key, value in metadata or ())
