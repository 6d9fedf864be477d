"""One request on a connection, and its response."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from gateway.fronts import wire
from gateway.fronts.asgi import BASE
from gateway.fronts.http2 import fields, frames
from gateway.fronts.http2.fields import Head
from modelyard.errors import ModelyardError
from modelyard.status import trailing_metadata

if TYPE_CHECKING:
    from gateway.fronts.http2.connection import Connection

# What a caller may send of a request before more of it is asked for.
WINDOW: Final = 1 << 20
# What a stream sends before others have their turn.
_TURN: Final = 256 << 10

# The first block of every answer, and of every refusal.
BEGUN: Final = fields.status(200) + fields.block(BASE)
# How a body ends without trailers.
OVER: Final = b""
_LAST: Final = frames.END_HEADERS | frames.END_STREAM


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
            last = not out and self._end == OVER
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
        if self._end == OVER:
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
