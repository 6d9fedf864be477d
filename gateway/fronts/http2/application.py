"""Answers the requests of all connections: the hot method by the shortest way, the rest by ASGI."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from gateway import envelope
from gateway.call import Answerer
from gateway.fronts import asgi, wire
from gateway.fronts.asgi import Receive, Scope, Send
from gateway.fronts.calls import call_of
from gateway.fronts.http2 import fields
from gateway.fronts.http2.connection import Connection
from gateway.fronts.http2.conversation import Conversation
from gateway.fronts.http2.fields import Head
from gateway.fronts.http2.stream import Stream
from gateway.fronts.http2.unary import Unary
from gateway.fronts.metadata import make_request_id
from gateway.fronts.paths import INFER, REST, STREAM
from gateway.fronts.relay import Relay
from gateway.plan import Kind
from gateway.stack import Service
from modelyard.errors import ModelyardError
from modelyard.interceptors import as_ours
from modelyard.metadata import ATTEMPT, REQUEST_ID, SERVED_BY

_REQUEST_ID: Final = REQUEST_ID.encode()
# Trailers that are remembered: of so many pairs of a version and a kind of attempt.
_KNOWN: Final = 1_024


class Application:
    """Makes the streams of requests, and answers them.

    Args:
        service: The stack.
        clock: Seconds, monotonic; the clock of every deadline.
        plain: Answers streams of inference, and REST.
        relay: Answers every other method.
    """

    def __init__(
        self,
        service: Service,
        clock: Callable[[], float],
        plain: asgi.Application,
        relay: Relay,
    ) -> None:
        self._service = service
        self._clock = clock
        self._plain = plain
        self._relay = relay
        self._loop = asyncio.get_running_loop()
        self._trailers: dict[tuple[Answerer, Kind], bytes] = {}

    def open(
        self, connection: Connection, number: int, head: Head, window: int, arrived: float
    ) -> Stream:
        """The stream of a request."""
        if head.hot:
            return Unary(self._begin, connection, number, head, window, arrived)
        return Conversation(self._converse, connection, number, head, window, arrived)

    def _begin(self, stream: Unary, payload: bytes) -> asyncio.Task[None]:
        return self._loop.create_task(self._infer(stream, payload))

    async def _infer(self, stream: Unary, payload: bytes) -> None:
        head = stream.head
        request_id = head.request_id or make_request_id()
        told: tuple[str, str | bytes] = (REQUEST_ID, request_id)
        try:
            metadata, arrived = (*head.metadata, told), stream.arrived
            request = envelope.read(payload)
            call = call_of(request, payload, head.timeout, metadata, request_id, arrived)
            answer = await self._service(call)
        except ModelyardError as error:
            stream.refuse(error, (told,))
            return
        except Exception as error:  # Whatever it is, the caller gets a status.
            stream.refuse(as_ours(error, INFER, (told,)), (told,))
            return
        begun = self._provenance(answer.served_by, answer.attempt)
        stream.respond(
            answer.payload, begun + fields.block(((_REQUEST_ID, request_id.encode("ascii")),))
        )

    def _provenance(self, served_by: Answerer, attempt: Kind) -> bytes:
        """The trailers of an answer but for the request's name; see `metadata.provenance`."""
        block = self._trailers.get((served_by, attempt))
        if block is None:
            told = wire.headers(((SERVED_BY, str(served_by)), (ATTEMPT, attempt)))
            block = fields.block(wire.status(0) + told)
            if len(self._trailers) >= _KNOWN:
                self._trailers.clear()
            self._trailers[served_by, attempt] = block
        return block

    def _converse(self, stream: Conversation) -> asyncio.Task[None]:
        head = stream.head
        scope = {"type": "http", "method": head.method, "path": head.path}
        work = self.answer(scope, list(head.headers), stream.receive, stream.send)
        return self._loop.create_task(work)

    async def answer(
        self, scope: Scope, headers: list[wire.Header], receive: Receive, send: Send
    ) -> None:
        """Answers a request by ASGI."""
        path, known = scope["path"], asgi.Headers(headers)
        by_grpc = scope["method"] == "POST" and known.content_type.startswith(wire.CONTENT_TYPE)
        if path in (INFER, STREAM) or path == REST or path.startswith(REST + "/"):
            await self._plain.answer(scope, known, receive, send)
        elif path and by_grpc:
            with suppress(OSError):
                await self._relay.answer(path, known, receive, send)
        else:
            with suppress(OSError):
                await _nothing_here(send, "gRPC, and REST below /v2\n" if path else "")


async def _nothing_here(send: Send, text: str) -> None:
    start: dict[str, Any] = {"type": "http.response.start", "status": 404}
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text))]
    await send(start | {"headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
