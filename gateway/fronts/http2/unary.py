"""A request of the hot method."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.fronts import wire
from gateway.fronts.http2.fields import Head
from gateway.fronts.http2.stream import Stream
from modelyard.errors import DeadlineExceeded, Internal, ModelyardError

if TYPE_CHECKING:
    from gateway.fronts.http2.connection import Connection


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
