"""The gateway's end of its recorder: starts the process, hands calls over, hears of them.

A recorder that ends is started again. What it had and did not tell of is counted as dropped, though
some of that may be in the log.
"""

import asyncio
import random
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import count

import structlog

from gateway.recorder import frames
from gateway.recorder.facts import Describer
from gateway.settings import GatewaySettings
from gateway.tap import Recording, Tap
from modelyard.backoff import Backoff
from modelyard.errors import InvalidArgument, StoreUnavailable
from modelyard.events.v1 import event_pb2
from modelyard.tasks import end

_log = structlog.get_logger(__name__)

# So long, in seconds, calls gather before they are handed over, and so many are told of in a turn
# of the loop: each costs it some microseconds, and each turn keeps whoever calls meanwhile waiting.
_GATHER, _AT_ONCE = 0.5, 16
# So many bytes are sent at once, for each arrival wakes the recorder: about what a socket takes.
_SEND = 128 << 10
# A recorder that is told to end has so long, in seconds: for what waits, and to go.
_PATIENCE = 7.0
_POLL = 0.02
_BACKOFF = Backoff(first=0.1, factor=2.0, limit=5.0)
# One that lived so long, in seconds, is started again at once.
_HEALTHY = 10.0


class RecorderLink:
    """A recorder and what is handed to it.

    Args:
        tap: Where calls wait.
        settings: What the recorder is told.
        clock: Seconds, monotonic.

    Attributes:
        pid: The recorder's process; 0 before the first.
    """

    def __init__(self, tap: Tap, settings: GatewaySettings, clock: Callable[[], float]) -> None:
        self._tap = tap
        self._settings = settings
        self._clock = clock
        self._describe = Describer()
        self._writer: asyncio.StreamWriter | None = None
        # Frames that tell of calls and are not sent yet.
        self._pieces: list[bytes] = []
        # Of the payloads of calls that were handed over and not heard of yet.
        self._bytes = 0
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[str]] = {}
        self._ready: asyncio.Future[None] | None = None
        self._ending = False
        self._task: asyncio.Task[None] | None = None
        self.pid = 0

    def start(self) -> None:
        """Starts the recorder, and keeps one running."""
        self._ready = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep(), name="recorder")

    async def ready(self) -> None:
        """Returns once a recorder takes calls, or the first one has failed.

        Raises:
            InvalidArgument: The rules of redaction, or a URL, are none.
        """
        assert self._ready is not None, "started"
        await self._ready

    async def close(self) -> None:
        """Hands over what waits, and returns when the recorder has written it and ended."""
        assert self._task is not None, "started"
        self._ending = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                # Attempts that lost their race may still be under way.
                while self._writer is not None and (self._tap.left or self._pieces):
                    await asyncio.sleep(_POLL)
                if self._writer is not None:
                    self._writer.writelines(frames.pack(frames.END))
                    await asyncio.wait((self._task,))
        await end(self._task)

    async def write(self, model: str, event: event_pb2.Event) -> str:
        """Writes one event now; gives its id.

        Raises:
            StoreUnavailable: The log does not answer. Whether it has the event is not known.
        """
        if self._writer is None:
            raise StoreUnavailable("the recorder is away: try again")
        number = next(self._numbers)
        asked: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asked[number] = asked
        self._writer.writelines(
            frames.pack(frames.EVENT, (number, model, event.SerializeToString()))
        )
        try:
            return await asked
        finally:
            self._asked.pop(number, None)

    async def _keep(self) -> None:
        failures = 0
        while not self._ending:
            began = self._clock()
            await self._live()
            if self._ending:
                return
            failures = 1 if self._clock() - began > _HEALTHY else failures + 1
            await asyncio.sleep(_BACKOFF.wait(failures, random.Random()))

    async def _live(self) -> None:
        """Starts a recorder and returns when it is gone."""
        ours, its = socket.socketpair()
        with its:
            process = await asyncio.to_thread(_begun, its.fileno())
        self.pid = process.pid
        ours.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        sending: asyncio.Task[None] | None = None
        try:
            settings = self._settings.model_dump_json()
            writer.writelines(frames.pack(frames.SETTINGS, settings))
            self._writer = writer
            sending = asyncio.create_task(self._send(writer), name="recorder sending")
            while (frame := await frames.read(reader)) is not None:
                self._heard(*frame)
        finally:
            self._writer = None
            if sending is not None:
                await end(sending)
            self._pieces = []
            writer.close()
            await _gone(process)
            self._lost(process.returncode)

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await self._tap.filled()
            await asyncio.sleep(_GATHER)
            while taken := self._tap.take(_AT_ONCE):
                self._pieces += self._told(taken)
                if sum(map(len, self._pieces)) >= _SEND:
                    await self._flush(writer)
                # After the calls that came meanwhile.
                await asyncio.sleep(0)
            await self._flush(writer)

    def _told(self, recordings: list[Recording]) -> list[bytes]:
        """A frame that tells of calls."""
        size = sum(recording.size for recording in recordings)
        try:
            frame = frames.pack(frames.CALLS, map(self._describe, recordings))
        except Exception as error:
            # Whatever cannot be told must not end the telling of others.
            self._tap.done(size, dropped=len(recordings))
            _log.warning("calls are not recorded", error=type(error).__name__)
            return []
        self._bytes += size
        return frame

    async def _flush(self, writer: asyncio.StreamWriter) -> None:
        pieces, self._pieces = self._pieces, []
        with suppress(ConnectionError):
            writer.writelines(pieces)
            await writer.drain()

    def _heard(self, kind: str, value: tuple[object, ...] | None) -> None:
        match kind, value:
            case frames.DONE, (int(written), int(dropped), int(size)):
                self._bytes -= size
                self._tap.done(size, written=written, dropped=dropped)
            case frames.WROTE, (int(number), str(event_id), str(failed)):
                asked = self._asked.get(number)
                if asked is not None and not asked.done():
                    if failed:
                        asked.set_exception(StoreUnavailable(failed))
                    else:
                        asked.set_result(event_id)
            case frames.READY, _:
                self._opened()
            case frames.REFUSED, (str(message), str(field)):
                # Later than at the start nobody else tells of it: a file of rules was changed.
                _log.warning("the recorder refuses what it is told", error=message)
                self._opened(InvalidArgument(message, field=field))

    def _opened(self, error: InvalidArgument | None = None) -> None:
        if self._ready is None or self._ready.done():
            return
        if error is None:
            self._ready.set_result(None)
        else:
            self._ready.set_exception(error)

    def _lost(self, code: int) -> None:
        """Counts what nobody will hear of any more."""
        # Calls go on without one.
        self._opened()
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(StoreUnavailable("the recorder ended: try again"))
        dropped = self._tap.waiting - self._tap.left
        self._tap.done(self._bytes, dropped=dropped)
        if not self._ending or dropped:
            _log.warning("the recorder ended", code=code, dropped=dropped)
        self._bytes = 0


def _begun(link: int) -> "subprocess.Popen[bytes]":
    """A recorder that has this end of the socket."""
    command = [sys.executable, "-m", "gateway.recorder", str(link)]
    return subprocess.Popen(command, pass_fds=(link,), stdin=subprocess.DEVNULL)


async def _gone(process: "subprocess.Popen[bytes]") -> None:
    """Returns when a process that has closed its socket, or whose socket is closed, has ended."""
    try:
        await asyncio.to_thread(process.wait, _PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        await asyncio.to_thread(process.wait)
    except asyncio.CancelledError:
        process.kill()
        process.wait()
        raise
