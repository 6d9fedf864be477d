"""One request on a connection, and its response."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from gateway.fronts import wire
from gateway.fronts.http2 import fields, frames
from gateway.fronts.http2.fields import Head
from gateway.fronts.http2.frames import Code
from modelyard.errors import DeadlineExceeded, Internal, ModelyardError
from modelyard.status import trailing_metadata

if TYPE_CHECKING:
    from gateway.fronts.http2.connection import Connection

# What a caller may send of a request before more of it is asked for.
WINDOW: Final = 1 << 20
# What a stream sends before others have their turn.
_TURN: Final = 256 << 10

_GRPC: Final = [(b"content-type", wire.CONTENT_TYPE), (b"grpc-accept-encoding", wire.ENCODINGS)]
# The first block of every answer, and of every refusal.
BEGUN: Final = fields.status(200) + fields.block(_GRPC)
_OVER: Final = b""


class Stream:
    """A stream, and what is sent on it.

    Attributes:
        id: Its number.
        head: Its headers.
        arrived: When they came, on the clock of every deadline.
        window: Bytes that the caller takes of it; below 0 where it took that back.
        allowed: Bytes that the caller may still send.
        task: Answers it; None while nobody does.
        ended: The caller has said all.
        over: So have we, or it was reset.
    """

    __slots__ = (
        *("allowed", "arrived", "connection", "ended", "head", "id", "over", "task", "window"),
        *("_end", "_out", "_sent"),
    )

    def __init__(
        self, connection: "Connection", number: int, head: Head, window: int, arrived: float
    ) -> None:
        self.connection = connection
        self.id = number
        self.head = head
        self.arrived = arrived
        self.window = window
        self.allowed = WINDOW
        self.task: asyncio.Task[None] | None = None
        self.ended = self.over = False
        # What the windows have no room for, and what comes after it: trailers, or the bare end.
        self._out: deque[memoryview] | None = None
        self._end: bytes | None = None
        self._sent: asyncio.Future[None] | None = None

    # What comes.

    def begin(self) -> None:
        """Its headers are here."""
        raise NotImplementedError

    def take(self, data: bytes, end: bool) -> None:
        """A part of its body is here."""
        raise NotImplementedError

    def wait(self) -> None:
        """No more of it came with what it began with."""

    def drop(self) -> None:
        """The caller gave it up, or is gone."""
        self.over = True
        self._out = None
        if self.task is not None:
            self.task.cancel()

    # What is sent.

    def respond(self, payload: bytes, trailers: bytes) -> None:
        """A message, and a status: the whole answer of a unary call.

        Args:
            payload: The serialized message.
            trailers: Their block.
        """
        connection, number, size = self.connection, self.id, len(payload) + 5
        if self.over:
            return
        if not connection.has_room(size) or size > self.window:
            connection.write(frames.head(len(BEGUN), frames.HEADERS, frames.END_HEADERS, number))
            connection.write(BEGUN)
            self.push(wire.framed(payload), trailers)
            return
        connection.window -= size
        connection.write(
            b"".join(
                (
                    frames.head(len(BEGUN), frames.HEADERS, frames.END_HEADERS, number),
                    BEGUN,
                    frames.head(size, frames.DATA, 0, number),
                    wire.framed(payload),
                    frames.head(len(trailers), frames.HEADERS, _LAST, number),
                    trailers,
                )
            )
        )
        self._close()

    def refuse(self, error: ModelyardError, told: wire.Metadata = ()) -> None:
        """A status, and nothing before it."""
        sent = (*told, *trailing_metadata(error))
        status = wire.status(int(error.code), error.message) + wire.headers(sent)
        self.headers(BEGUN + fields.block(status), end=True)

    def headers(self, block: bytes, end: bool = False) -> None:
        """Headers, or all there is."""
        if self.over:
            return
        flags = _LAST if end else frames.END_HEADERS
        for index, at in enumerate(range(0, len(block), frames.FRAME)):
            part = block[at : at + frames.FRAME]
            kind = frames.HEADERS if index == 0 else frames.CONTINUATION
            own = flags & frames.END_STREAM if index == 0 else 0
            whole = frames.END_HEADERS if at + frames.FRAME >= len(block) else 0
            self.connection.write(frames.head(len(part), kind, own | whole, self.id) + part)
        if end:
            self._close()

    def push(self, data: bytes, end: bytes | None) -> None:
        """A part of the body.

        Args:
            data: It.
            end: The block of trailers that ends the stream; empty to end it without; None where
                more will follow.
        """
        if self.over:
            return
        if self._out is None:
            self._out = deque()
        if data:
            self._out.append(memoryview(data))
        self._end = end
        self.connection.send(self)

    async def pushed(self) -> None:
        """Returns when all that was pushed is on its way, or nobody takes it any more."""
        if self._out:
            self._sent = self.connection.loop.create_future()
            await self._sent

    def pump(self) -> bool:
        """Sends what the windows have room for, a turn of it; False where that is nothing."""
        connection, out, turn = self.connection, self._out, _TURN
        if self.over or out is None:
            return False
        while out and turn > 0:
            room = min(self.window, connection.room)
            if room <= 0:
                break
            piece = out[0]
            if len(piece) > room:
                out[0], piece = piece[room:], piece[:room]
            else:
                out.popleft()
            size = len(piece)
            last = not out and self._end == _OVER
            flags = frames.END_STREAM if last else 0
            connection.window -= size
            self.window -= size
            turn -= size
            connection.write(frames.head(size, frames.DATA, flags, self.id))
            connection.write_now(piece)
            if last:
                self._close()
                return True
        if out:
            return turn < _TURN
        if self._end == _OVER:
            connection.write(frames.head(0, frames.DATA, frames.END_STREAM, self.id))
            self._close()
        elif self._end is not None:
            self.headers(self._end, end=True)
        self.wake()
        return True

    @property
    def unsent(self) -> bool:
        """True while something waits for room."""
        return bool(self._out) and not self.over

    def wake(self) -> None:
        """Goes on with whoever waits for what was pushed."""
        if self._sent is not None and not self._sent.done():
            self._sent.set_result(None)

    def _close(self) -> None:
        self.over = True
        self.wake()
        self.connection.closed(self)


_LAST: Final = frames.END_HEADERS | frames.END_STREAM


class Unary(Stream):
    """A call of `ModelInfer`: nobody is asked before its one message is whole.

    Args:
        answer: Begins to answer it, given its message.
    """

    __slots__ = ("_answer", "_got", "_messages", "_timer")

    def __init__(
        self,
        answer: Callable[["Unary", bytes], asyncio.Task[None]],
        connection: "Connection",
        number: int,
        head: Head,
        window: int,
        arrived: float,
    ) -> None:
        super().__init__(connection, number, head, window, arrived)
        self._answer = answer
        self._messages: wire.Messages | None = None
        self._got: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """What is wrong with its headers is told at once."""
        if self.head.fault is not None:
            self.refuse(self.head.fault)

    def take(self, data: bytes, end: bool) -> None:
        """A part of its message, or all of it."""
        messages, limit = self._messages, self.connection.limit
        if messages is None:
            size = len(data) - 5
            if end and 0 <= size <= limit and data[:5] == b"\x00" + size.to_bytes(4, "big"):
                # The usual case: one message, whole.
                self.task = self._answer(self, data[5:])
                return
        try:
            if messages is None:
                messages = self._messages = wire.Messages(limit, self.head.encoding)
            self._got += messages.feed(data)
            if end:
                messages.end()
            if len(self._got) > 1 or (end and not self._got):
                count = "more" if self._got else "none"
                raise Internal(f"one message is awaited, {count} came")
        except ModelyardError as error:
            self._stop()
            self.refuse(error)
            return
        if end:
            self._stop()
            self.task = self._answer(self, self._got[0])
            return
        self.connection.replenish(self)

    def wait(self) -> None:
        """The deadline stands over what is still on its way, too."""
        left = self.head.timeout
        if left is not None and self.task is None and self._timer is None and not self.over:
            self._timer = self.connection.loop.call_at(self.arrived + left, self._late)

    def drop(self) -> None:
        """The caller gave it up."""
        self._stop()
        super().drop()

    def _late(self) -> None:
        self.refuse(DeadlineExceeded("the deadline passed before the request was here"))

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


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
        self.push(body, None if more else _OVER)
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
