"""The ASGI application inside Envoy, which pyvoy calls.

ASGI does not say that the caller gave up, once its request is whole: `receive` then answers at
once, for ever, that the body has ended. Envoy's access log tells of it instead, down a pipe (see
`Resets`).
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gateway.fronts import asgi, wire
from gateway.fronts.asgi import Receive, Scope, Send
from gateway.fronts.envoy.config import GIVEN_ID, REQUEST_ID_HEADER
from gateway.fronts.rest import Rest
from gateway.stack import Service

# Resets that came before their call did; more of them at a time means that they are of others.
_EARLY = 1024


class Resets:
    """Cancels the tasks of calls whose callers gave up.

    Envoy writes a line with the identifier of each stream that was reset into a pipe. A stream's
    identifier is made by Envoy, never taken from a caller.
    """

    def __init__(self) -> None:
        self._tasks: dict[bytes, asyncio.Task[Any]] = {}
        self._early: OrderedDict[bytes, None] = OrderedDict()
        self._rest = b""

    def begin(self, stream: bytes) -> bool:
        """The current task answers a stream; False where the caller has given it up."""
        task = asyncio.current_task()
        assert task is not None, "called by a task"
        if self._early and stream in self._early:
            del self._early[stream]
            return False
        self._tasks[stream] = task
        return True

    def end(self, stream: bytes) -> None:
        """It no longer does."""
        self._tasks.pop(stream, None)

    def read(self, pipe: int) -> None:
        """Takes what the pipe holds."""
        with suppress(BlockingIOError):
            self.feed(os.read(pipe, 1 << 16))

    def feed(self, data: bytes) -> None:
        """Takes lines, of which the last may go on later."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for stream in lines:
            task = self._tasks.pop(stream, None)
            if task is not None:
                task.cancel()
                continue
            # Of a stream that another server answers, that is over, or that is not here yet.
            self._early[stream] = None
            if len(self._early) > _EARLY:
                self._early.popitem(last=False)


class Headers(asgi.Headers):
    """The same; and Envoy's identifier of the stream, which stands in the place of the caller's."""

    __slots__ = ("stream",)

    def __init__(self, headers: list[wire.Header]) -> None:
        super().__init__(headers)
        self.stream = given = b""
        passed = []
        for pair in self.passed:
            if pair[0] == REQUEST_ID_HEADER:
                self.stream = pair[1]
            elif pair[0] == GIVEN_ID:
                given = pair[1]
            else:
                passed.append(pair)
        if given:
            passed.append((REQUEST_ID_HEADER, given))
        self.passed = passed


class Application(asgi.Application):
    """Answers as long as the caller waits.

    Args:
        service: The stack.
        clock: Seconds, monotonic; the clock of every deadline.
        limit: Bytes that a message may have.
        resets: Knows which callers gave up.
        rest: Answers what is no gRPC.
    """

    def __init__(
        self,
        service: Service,
        clock: Callable[[], float],
        limit: int,
        resets: Resets,
        rest: Rest,
    ) -> None:
        super().__init__(service, clock, limit, rest)
        self._resets = resets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        headers = Headers(scope["headers"])
        if not self._resets.begin(headers.stream):
            return
        try:
            await self.answer(scope, headers, receive, send)
        except asyncio.CancelledError:
            # The caller gave up, and nobody is left to be told. A task that ends as cancelled makes
            # pyvoy panic.
            return
        finally:
            self._resets.end(headers.stream)
