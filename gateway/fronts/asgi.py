"""Answers the hot methods, and REST, over ASGI: whichever server brings it.

A status without a body (gRPC's Trailers-Only) is something that ASGI has no word for: headers, and
an empty body without trailers.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from typing import Any, TypeAlias

from gateway import envelope
from gateway.fronts import wire
from gateway.fronts.calls import call_of
from gateway.fronts.metadata import forwarded, provenance
from gateway.fronts.paths import INFER, STREAM
from gateway.fronts.rest import Rest
from gateway.fronts.streams import answers
from gateway.stack import Service
from modelyard.errors import Cancelled, DeadlineExceeded, Internal, ModelyardError
from modelyard.interceptors import as_ours
from modelyard.metadata import REQUEST_ID
from modelyard.status import trailing_metadata

Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
Handler: TypeAlias = Callable[["Headers", Receive, Send], Awaitable[None]]

BASE = [
    (b"content-type", wire.CONTENT_TYPE),
    (b"grpc-accept-encoding", wire.ENCODINGS),
]
_START = {"type": "http.response.start", "status": 200, "headers": BASE, "trailers": True}


class Headers:
    """What of a request's headers a call needs, found in one turn."""

    __slots__ = ("content_type", "encoding", "passed", "timeout")

    def __init__(self, headers: Iterable[wire.Header]) -> None:
        self.encoding = self.timeout = self.content_type = b""
        passed = []
        for pair in headers:
            key = pair[0]
            if key == b"grpc-timeout":
                self.timeout = pair[1]
            elif key == b"grpc-encoding":
                self.encoding = pair[1]
            elif key == b"content-type":
                self.content_type = pair[1]
            else:
                passed.append(pair)
        self.passed = passed


class Application:
    """Answers `ModelInfer`, `ModelStreamInfer`, and what is no gRPC.

    Args:
        service: The stack.
        clock: Seconds, monotonic; the clock of every deadline.
        limit: Bytes that a message may have.
        rest: Answers what is no gRPC.
    """

    def __init__(
        self, service: Service, clock: Callable[[], float], limit: int, rest: Rest
    ) -> None:
        self._service = service
        self._clock = clock
        self._limit = limit
        self._rest = rest
        self._handlers: dict[str, Handler] = {INFER: self._infer, STREAM: self._stream}

    async def answer(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        """Answers one request; of its scope only method and path are looked at."""
        path = scope["path"]
        try:
            handler = self._handlers.get(path)
            if handler is None:
                await self._rest.answer(scope["method"], path, headers.passed, receive, send)
            elif not headers.content_type.startswith(wire.CONTENT_TYPE):
                await send({"type": "http.response.start", "status": 415, "headers": []})
                await send({"type": "http.response.body", "body": b""})
            else:
                await handler(headers, receive, send)
        except OSError:
            # A server's word for a caller that is gone.
            return
        except Exception as error:  # Whatever it is, the caller gets a status.
            ours = as_ours(error, path, _text(headers))
            with suppress(OSError):
                await refuse(send, ours)

    async def _infer(self, headers: Headers, receive: Receive, send: Send) -> None:
        now = self._clock()
        remaining = wire.seconds(headers.timeout) if headers.timeout else None
        metadata, request_id = forwarded(wire.metadata(headers.passed))
        told: tuple[tuple[str, str | bytes], ...] = ((REQUEST_ID, request_id),)
        try:
            messages = wire.Messages(self._limit, headers.encoding)
            payload = await _one(messages, receive, remaining)
            head = envelope.read(payload)
            call = call_of(head, payload, remaining, metadata, request_id, now)
            answer = await self._service(call)
        except TimeoutError:
            late = DeadlineExceeded("the deadline passed before the request was here")
            await refuse(send, late, told)
            return
        except ModelyardError as error:
            await refuse(send, error, told)
            return
        told = provenance(answer, request_id)
        await send(_START)
        await send({"type": "http.response.body", "body": wire.framed(answer.payload)})
        await send(_trailers(wire.status(0) + wire.headers(told)))

    async def _stream(self, headers: Headers, receive: Receive, send: Send) -> None:
        clock = self._clock
        received = wire.metadata(headers.passed)
        until = clock() + wire.seconds(headers.timeout) if headers.timeout else None
        messages = wire.Messages(self._limit, headers.encoding)
        begun = False

        def remaining() -> float | None:
            return None if until is None else until - clock()

        try:
            async with (
                asyncio.timeout(remaining()),
                aclosing(
                    answers(
                        self._service, messages_of(messages, receive), received, remaining, clock
                    )
                ) as stream,
            ):
                async for answer in stream:
                    if not begun:
                        await send(_START)
                        begun = True
                    # Returns once Envoy took it: a slow reader slows the stream.
                    body = wire.framed(answer)
                    more = {"type": "http.response.body", "body": body, "more_body": True}
                    await _taken(send(more))
        except TimeoutError:
            failure: ModelyardError | None = DeadlineExceeded("the stream's deadline passed")
        except ModelyardError as error:
            failure = error
        else:
            failure = None
        if failure is not None and not begun:
            await refuse(send, failure)
            return
        if not begun:
            await send(_START)
        await send({"type": "http.response.body", "body": b""})
        await send(_trailers(wire.status(0) if failure is None else _status(failure)))


def _taken(sending: Awaitable[None]) -> Awaitable[None]:
    """Waits for what pyvoy sets, even where nobody waits for it any more: with an error, too."""
    sent = asyncio.ensure_future(sending)
    sent.add_done_callback(_looked_at)
    return asyncio.shield(sent)


def _looked_at(sent: "asyncio.Future[Any]") -> None:
    if not sent.cancelled():
        sent.exception()


async def _one(messages: wire.Messages, receive: Receive, seconds: float | None) -> bytes:
    """The one message of a unary request; raises TimeoutError where it is not here in time."""
    until = None if seconds is None else asyncio.get_running_loop().time() + seconds
    event = await _next(receive, seconds)
    if event["type"] == "http.request" and not event["more_body"]:
        got = messages.feed(event["body"])
        messages.end()
    else:
        got = []
        async with asyncio.timeout_at(until):
            async for message in messages_of(messages, receive, event):
                got.append(message)
                if len(got) > 1:
                    break
    if len(got) != 1:
        count = "none" if not got else "more"
        raise Internal(f"one message is awaited, {count} came")
    return got[0]


async def messages_of(
    parsing: wire.Messages, receive: Receive, event: dict[str, Any] | None = None
) -> AsyncIterator[bytes]:
    """The messages of a request, from this event on until its end."""
    while True:
        event = event or await _next(receive)
        if event["type"] != "http.request":
            raise Cancelled("the caller is gone")
        for message in parsing.feed(event["body"]):
            yield message
        if not event["more_body"]:
            parsing.end()
            return
        event = None


async def _next(receive: Receive, seconds: float | None = None) -> dict[str, Any]:
    """What Envoy says next; raises TimeoutError where it says nothing in time.

    What `asyncio.timeout` and `asyncio.shield` do, at a third of their cost: pyvoy sets what
    `receive` gave, even where nobody waits for it any more.
    """
    given = asyncio.ensure_future(receive())
    loop = asyncio.get_running_loop()
    heard: asyncio.Future[None] = loop.create_future()

    def hear(_: object = None) -> None:
        if not heard.done():
            heard.set_result(None)
        elif given.done():
            _looked_at(given)

    given.add_done_callback(hear)
    timer = None if seconds is None else loop.call_later(seconds, hear)
    try:
        await heard
    finally:
        if timer is not None:
            timer.cancel()
    if not given.done():
        raise TimeoutError
    return given.result()


def _status(error: ModelyardError, told: wire.Metadata = ()) -> list[wire.Header]:
    sent = (*told, *trailing_metadata(error))
    return wire.status(int(error.code), error.message) + wire.headers(sent)


def _trailers(headers: list[wire.Header]) -> dict[str, Any]:
    return {"type": "http.response.trailers", "headers": headers}


async def refuse(send: Send, error: ModelyardError, told: wire.Metadata = ()) -> None:
    """A status, and nothing before it."""
    headers = BASE + _status(error, told)
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _text(headers: Headers) -> list[tuple[str, str | bytes]]:
    return [(k.decode("latin-1"), v.decode("latin-1")) for k, v in headers.passed]
