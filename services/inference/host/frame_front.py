"""The frame front of a host: the local lane's calls in, their answers out.

The service behind it is that of the gRPC front. A call that is answered at once costs no task.
"""

import asyncio
import contextlib
import logging
import os
import socket
from pathlib import Path

from modelyard import frames
from modelyard.eager import Begun
from modelyard.errors import (
    FailedPrecondition,
    MessageTooLarge,
    ModelyardError,
    Unimplemented,
)
from modelyard.frames import Frame, Hello, Malformed, Metadata
from modelyard.interceptors import as_ours
from modelyard.links import Link
from modelyard.metadata import TARGET
from modelyard.status import trailing_metadata
from modelyard.telemetry import Tracing
from services.inference.host.methods import methods
from services.inference.host.service import ModelService

_log = logging.getLogger(__name__)

# Calls of one connection at a time, and their bytes as a multiple of the largest message.
CALLS, MESSAGES = 1024, 4
_SERVICE = "/inference.GRPCInferenceService/"


class FrameFront:
    """Listens on a unix socket that only its own user may connect to.

    Args:
        service: Answers.
        address: `unix:/path`.
        largest: The largest message, in bytes.
        tracing: Makes a span of each call; None for no spans.
    """

    def __init__(
        self, service: ModelService, address: str, largest: int, tracing: Tracing | None = None
    ) -> None:
        self._address = address
        self._path = Path(address.removeprefix("unix:"))
        self._tracing = tracing
        self._handlers = {name.encode(): handler for name, handler in methods(service).items()}
        self._hello = Hello(largest, CALLS, largest * MESSAGES, who="host")
        self._links: set[_Caller] = set()
        self._server: asyncio.Server | None = None
        self._idle = asyncio.Event()

    async def start(self) -> str:
        """Listens; gives the address.

        Raises:
            FailedPrecondition: The path is taken, or may not be used.
        """
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(str(self._path))
            # Before it listens, so that nobody else was let in meanwhile.
            os.chmod(self._path, 0o600)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(self._connected, sock=listening)
        except OSError as error:
            listening.close()
            raise FailedPrecondition(
                f"frames {self._address!r}: cannot be bound: {error.strerror}", field="frames"
            ) from error
        return self._address

    async def stop(self, grace: float) -> None:
        """Takes no call any more, lets those under way end within the grace, and closes."""
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(OSError):
                self._path.unlink()
        for link in self._links:
            link.send(frames.drain("the host ends; try another"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while any(link.calls or link.unsent for link in self._links):
                    self._idle.clear()
                    await self._idle.wait()
        links = tuple(self._links)
        for link in links:
            link.close("the host has ended")
        # The loop ends next, and what it had not handed over would end with it.
        await asyncio.gather(*(link.gone for link in links))

    @property
    def calls(self) -> int:
        """Calls under way."""
        return sum(len(link.calls) for link in self._links)

    def _connected(self) -> "_Caller":
        return _Caller(self, self._hello)

    def joined(self, link: "_Caller") -> None:
        """A gateway has come."""
        self._links.add(link)

    def left(self, link: "_Caller") -> None:
        """It has gone."""
        self._links.discard(link)
        self._idle.set()

    def answered(self) -> None:
        """A link has no call left, or nothing that it has not sent."""
        self._idle.set()

    async def answer(self, link: "_Caller", frame: Frame, metadata: Metadata) -> None:
        """Answers one request, or says what became of it."""
        _, _, call, number, text, _, payload = frame
        del frame
        method = text.decode(errors="replace")
        try:
            handler = self._handlers.get(text)
            if handler is None:
                raise Unimplemented(f"{method} is not among the methods of the local lane")
            target = None
            for key, value in metadata:
                if key == TARGET and isinstance(value, str):
                    target = value
            work = handler(payload, target, number / 1e9 if number else None)
            # Only the handler keeps the request's bytes, for as long as it needs them.
            del payload
            if self._tracing is None:
                answer = await work
            else:
                with self._tracing.served(_SERVICE + method, metadata):
                    answer = await work
            link.answer(call, answer)
        except Exception as error:  # Whatever it is, the caller gets a status.
            link.fail(call, as_ours(error, _SERVICE + method, metadata))

    @property
    def eager(self) -> bool:
        """Spans need the context of a task: then every call is one."""
        return self._tracing is None


class _Caller(Link):
    """A gateway's connection.

    Attributes:
        calls: Those under way, by number: the task, once there is one, and the request's bytes.
    """

    def __init__(self, front: FrameFront, hello: Hello) -> None:
        super().__init__(hello)
        self.calls: dict[int, tuple[asyncio.Task[None] | None, int]] = {}
        self._front = front
        self._last = 0
        self._bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._front.joined(self)

    def took(self, frame: Frame) -> None:
        """A request, or that one is given up."""
        if frame.type == frames.REQUEST:
            self._begin(frame)
        elif frame.type == frames.CANCEL:
            if frame.call > self._last:
                raise Malformed(f"call {frame.call} is given up, which nobody made")
            known = self.calls.get(frame.call)
            if known is not None:
                self._forget(frame.call)
                if known[0] is not None:
                    known[0].cancel()
        else:
            raise Malformed("a gateway answers nothing, and drains nobody")

    def answer(self, call: int, payload: bytes) -> None:
        """Sends an answer; one that is given up goes nowhere."""
        if call not in self.calls:
            return
        assert self.peer is not None, "it has greeted"
        if len(payload) > self.peer.largest:
            raise MessageTooLarge(
                f"an answer of {len(payload)} bytes; the gateway takes {self.peer.largest}"
            )
        self._forget(call)
        self.send(frames.answer(call, len(payload)), payload)

    def fail(self, call: int, error: ModelyardError) -> None:
        """Sends an error; one of a call that is given up goes nowhere."""
        if call in self.calls:
            self._forget(call)
            details = frames.encode_metadata(trailing_metadata(error))
            self.send(frames.status(call, int(error.code), error.message, details))

    def filled(self) -> None:
        """Who does not take answers is not asked for more requests."""
        self._transport.pause_reading()

    def drained(self) -> None:
        """Answers flow again."""
        if not self.ended:
            self._transport.resume_reading()
            self._front.answered()

    def lost(self) -> None:
        """Nobody waits any more."""
        for task, _ in self.calls.values():
            if task is not None:
                task.cancel()
        self.calls.clear()
        self._front.left(self)

    def _begin(self, frame: Frame) -> None:
        call, size = frame.call, len(frame.payload)
        if call <= self._last:
            raise Malformed(f"call {call} comes after call {self._last}")
        if len(self.calls) >= self._own.calls:
            raise Malformed(f"more than {self._own.calls} calls at a time")
        if self._bytes + size > self._own.bytes:
            raise Malformed(f"more than {self._own.bytes} bytes of requests at a time")
        metadata = frames.decode_metadata(frame.metadata)
        self._last = call
        self._bytes += size
        self.calls[call] = (None, size)
        work = self._front.answer(self, frame, metadata)
        if self._front.eager:
            try:
                waited_for = work.send(None)
            except StopIteration:
                return
            work = Begun(work, waited_for)
        self.calls[call] = (self.loop.create_task(work), size)

    def _forget(self, call: int) -> None:
        _, size = self.calls.pop(call)
        self._bytes -= size
        if not self.calls:
            self._front.answered()
