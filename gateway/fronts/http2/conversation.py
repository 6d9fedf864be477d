"""A request that is answered as it comes, by ASGI."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gateway.fronts.http2 import fields
from gateway.fronts.http2.fields import Head
from gateway.fronts.http2.frames import Code
from gateway.fronts.http2.stream import OVER, Stream

if TYPE_CHECKING:
    from gateway.fronts.http2.connection import Connection


class Conversation(Stream):
    """Any other request: answered as it comes, by an ASGI application.

    Args:
        answer: Begins to answer it.
    """

    __slots__ = ("_answer", "_begun", "_came", "_chunks", "_start")

    def __init__(
        self,
        answer: Callable[["Conversation"], asyncio.Task[None]],
        connection: "Connection",
        number: int,
        head: Head,
        window: int,
        arrived: float,
    ) -> None:
        super().__init__(connection, number, head, window, arrived)
        self._answer = answer
        self._chunks: list[bytes] = []
        self._came: asyncio.Future[None] | None = None
        self._start: dict[str, Any] | None = None
        self._begun = False

    def begin(self) -> None:
        """Answered from its headers on."""
        self.task = self._answer(self)
        self.task.add_done_callback(self._answered)

    def take(self, data: bytes, end: bool) -> None:
        """A part of its body, for who receives."""
        if data:
            self._chunks.append(data)
        self._hear()

    def drop(self) -> None:
        """The caller gave it up: nobody waits any more, neither to receive nor to send."""
        super().drop()
        self._hear()
        self.wake()

    async def receive(self) -> dict[str, Any]:
        """ASGI's `receive`."""
        if not (self._chunks or self.ended or self.over):
            self._came = self.connection.loop.create_future()
            await self._came
        if self.over:
            return {"type": "http.disconnect"}
        body = b"".join(self._chunks)
        self._chunks.clear()
        if not self.ended:
            self.connection.replenish(self)
        return {"type": "http.request", "body": body, "more_body": not self.ended}

    async def send(self, event: dict[str, Any]) -> None:
        """ASGI's `send`; returns once the caller's windows took what it is given.

        Raises:
            OSError: The caller is gone.
        """
        if self.over:
            raise ConnectionResetError("the caller is gone")
        if event["type"] == "http.response.start":
            self._start = event
            return
        if event["type"] == "http.response.trailers":
            self.push(b"", fields.block(event["headers"]))
            return
        start, body = self._start, event.get("body", b"")
        assert start is not None, "the response has begun"
        more = event.get("more_body", False) or start.get("trailers", False)
        if not self._begun:
            self._begun = True
            block = fields.status(start["status"]) + fields.block(start["headers"])
            if not (body or more):
                self.headers(block, end=True)
                return
            self.headers(block)
        self.push(body, None if more else OVER)
        await self.pushed()

    def _close(self) -> None:
        super()._close()
        self._hear()

    def _hear(self) -> None:
        if self._came is not None and not self._came.done():
            self._came.set_result(None)

    def _answered(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            # The application tells of its own errors.
            task.exception()
        if not (self.over or self.unsent or self._end is not None):
            # It said nothing, or not all.
            self.connection.reset(self, Code.INTERNAL_ERROR)
