"""HTTP/1.1 on the same port, for REST: h11 takes it apart, the ASGI application answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import h11

from gateway.fronts import wire
from gateway.fronts.asgi import Receive, Scope, Send

# A connection on which nothing is asked, or no more of a body comes, for so long ends, in seconds.
_IDLE: Final = 60.0
# What comes of a body before who answers takes it.
_AHEAD: Final = 1 << 20

Answer: TypeAlias = Callable[[Scope, list[wire.Header], Receive, Send], Awaitable[None]]


class Http1(asyncio.Protocol):
    """One connection; its requests are answered one after the other.

    Args:
        answer: Answers a request.
        left: Is told when it is gone.
    """

    def __init__(self, answer: Answer, left: Callable[["Http1"], None]) -> None:
        self._answer = answer
        self._left = left
        self._loop = asyncio.get_running_loop()
        self._h11 = h11.Connection(h11.SERVER)
        self._transport: Any = None
        self._task: asyncio.Task[None] | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._whole = False
        self._came: asyncio.Future[None] | None = None
        self._start: dict[str, Any] | None = None
        self._timer = self._loop.call_later(_IDLE, self._idle)
        self._leaving = False
        self._flows = asyncio.Event()
        self._flows.set()

    # asyncio's.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Takes what became whole."""
        try:
            self._h11.receive_data(data)
            self._go_on()
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint)

    def eof_received(self) -> None:
        """The caller says no more, and is taken as gone."""

    def connection_lost(self, error: Exception | None) -> None:
        """Gives the request up."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        # Nobody waits any more, neither to receive nor to send.
        if self._came is not None and not self._came.done():
            self._came.set_result(None)
        self._flows.set()
        self._left(self)

    def pause_writing(self) -> None:
        """The caller does not read."""
        self._flows.clear()

    def resume_writing(self) -> None:
        """It does again."""
        self._flows.set()

    # What the front uses.

    def leave(self) -> None:
        """Ends after the request that is under way."""
        self._leaving = True
        if self._task is None:
            self._transport.close()

    def abort(self) -> None:
        """Ends at once."""
        self._transport.abort()

    # Inside.

    def _go_on(self) -> None:
        while True:
            event = self._h11.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED):
                return
            match event:
                case h11.Request():
                    self._begin(event)
                case h11.Data():
                    self._chunks.append(bytes(event.data))
                    self._size += len(event.data)
                    if self._size > _AHEAD:
                        self._transport.pause_reading()
                case h11.EndOfMessage():
                    self._whole = True
                case h11.ConnectionClosed():
                    self._transport.close()
                    return
            if self._came is not None and not self._came.done():
                self._came.set_result(None)

    def _begin(self, request: h11.Request) -> None:
        self._timer.cancel()
        self._chunks, self._size, self._whole, self._start = [], 0, False, None
        path = request.target.partition(b"?")[0].decode("latin-1")
        scope = {"type": "http", "method": request.method.decode("ascii"), "path": path}
        headers = [(bytes(k), bytes(v)) for k, v in request.headers]
        work = self._answer(scope, headers, self._receive, self._send)
        self._task = self._loop.create_task(self._run(work))

    async def _run(self, work: Awaitable[None]) -> None:
        try:
            await work
        finally:
            self._task = None
            self._next()

    def _next(self) -> None:
        """Goes on with the next request, where the connection bears one."""
        if self._transport.is_closing():
            return
        done = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        if self._leaving or not done:
            self._transport.close()
            return
        self._h11.start_next_cycle()
        self._timer = self._loop.call_later(_IDLE, self._idle)
        self._transport.resume_reading()
        try:
            self._go_on()
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint)

    async def _receive(self) -> dict[str, Any]:
        if self._h11.they_are_waiting_for_100_continue:
            self._write(h11.InformationalResponse(status_code=100, headers=[]))
        if not (self._chunks or self._whole):
            self._transport.resume_reading()
            self._came = self._loop.create_future()
            late = self._loop.call_later(_IDLE, self._refuse, 408)
            try:
                await self._came
            finally:
                late.cancel()
        if self._transport.is_closing():
            return {"type": "http.disconnect"}
        body = b"".join(self._chunks)
        self._chunks, self._size = [], 0
        return {"type": "http.request", "body": body, "more_body": not self._whole}

    async def _send(self, event: dict[str, Any]) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError("the caller is gone")
        if event["type"] == "http.response.start":
            self._start = event
            return
        if event["type"] == "http.response.trailers":
            # Of gRPC, which does not come this way.
            self._write(h11.EndOfMessage())
            return
        if self._start is not None:
            headers = list(self._start["headers"])
            if self._leaving:
                headers.append((b"connection", b"close"))
            self._write(h11.Response(status_code=self._start["status"], headers=headers))
            self._start = None
        if event.get("body"):
            self._write(h11.Data(data=event["body"]))
        if not event.get("more_body", False):
            self._write(h11.EndOfMessage())
        await self._flows.wait()

    def _write(self, event: Any) -> None:
        data = self._h11.send(event)
        if data:
            self._transport.write(data)

    def _refuse(self, status: int) -> None:
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [(b"content-length", b"0"), (b"connection", b"close")]
            self._write(h11.Response(status_code=status, headers=headers))
            self._write(h11.EndOfMessage())
        self._transport.close()

    def _idle(self) -> None:
        self._transport.close()
