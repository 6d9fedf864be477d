"""Keeps one worker: starts it, starts it again when it ends or hangs, knows whether it serves."""

import asyncio
import math
import random
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeAlias

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.settings import GatewaySettings
from gateway.workers.group import Group
from modelyard.backoff import Backoff
from modelyard.channels import open_channel
from modelyard.errors import FailedPrecondition

_log = structlog.get_logger(__name__)

_BACKOFF: Final = Backoff(first=0.1, factor=2.0, limit=5.0)
# A process that ran so long was well: its next end is not the same fault again. Seconds.
_WELL: Final = 30.0
# Ends in a row after which one that never served is given up.
_TRIES: Final = 3
# Between two tries to be told a health that is not told, in seconds.
_PAUSE: Final = 0.1
# A worker that listens is asked so often whether it serves, and is ended when it does not answer
# within the second. Seconds; no caller's probe would find it, for another worker would answer.
_ASKED, _HUNG = 2.0, 10.0
# For a worker to listen, beyond the time that it waits for the registry; in seconds.
START: Final = 60.0

_NO_ANSWER: Final = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)

# Runs a worker until the event is set; gives its exit code.
Run: TypeAlias = Callable[[GatewaySettings, asyncio.Event, Group], Coroutine[Any, Any, int]]


class Keeper:
    """One worker.

    Args:
        run: Runs its process once.
        settings: The worker's own.
        group: Its place.
        changed: Called when it begins to serve, or serves no more.
        hung: It is ended when it listens, and does not answer for so many seconds.
        start: It is ended when it does not listen so many seconds after it was started.
    """

    def __init__(
        self,
        run: Run,
        settings: GatewaySettings,
        group: Group,
        changed: Callable[[], None],
        hung: float = _HUNG,
        start: float = START,
    ) -> None:
        self._hung = hung
        self._start = settings.first_view + start
        self._running: asyncio.Task[int] | None = None
        self._run = run
        self._settings = settings
        self._group = group
        self._changed = changed
        self._chance = random.Random()
        self.ending = asyncio.Event()
        self.channel = open_channel(settings.listen)
        self.serves = False
        self._has_served = False

    @property
    def index(self) -> int:
        """Its place."""
        return self._group.index

    async def keep(self) -> None:
        """Returns when it was told to end and has.

        Raises:
            FailedPrecondition: It has never served, and is given up.
        """
        clock, failures = asyncio.get_running_loop().time, 0
        watching = [asyncio.create_task(self._watch()), asyncio.create_task(self._probe())]
        try:
            while not self.ending.is_set():
                began = clock()
                code = await self._once()
                if self.ending.is_set():
                    return
                failures = 1 if clock() - began > _WELL else failures + 1
                if failures >= _TRIES and not self._has_served:
                    raise FailedPrecondition(f"worker {self.index} does not stay up: code {code}")
                wait = _BACKOFF.wait(failures, self._chance)
                _log.warning("worker ended", worker=self.index, code=code, again_in=round(wait, 2))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.ending.wait(), wait)
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def close(self) -> None:
        """Closes the connection to it."""
        await self.channel.close()

    async def _once(self) -> int:
        run = self._run(self._settings, self.ending, self._group)
        self._running = running = asyncio.create_task(run)
        try:
            await asyncio.wait((running,))
        finally:
            # Where the keeping itself is cancelled; the process is gone when the task is.
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        if running.cancelled():
            return -signal.SIGKILL
        try:
            return running.result()
        except FailedPrecondition as error:
            if not self._has_served:
                raise
            _log.error("worker cannot serve", worker=self.index, error=error.message)
            return 2

    async def _probe(self) -> None:
        """Ends the process where it hangs."""
        clock = asyncio.get_running_loop().time
        asked: asyncio.Task[int] | None = None
        until = math.inf
        while True:
            await asyncio.sleep(min(_ASKED, self._hung))
            if asked is not self._running:
                asked, until = self._running, clock() + self._start
            # Told to end it has a grace, and its parent a patience.
            if asked is None or asked.done() or self.ending.is_set():
                continue
            answers = await self._answers()
            if answers:
                # From here on it may stop to listen: it drains.
                until = math.inf
            hangs = answers is False or clock() > until
            if hangs and asked is self._running and not self.ending.is_set():
                _log.error("worker hangs", worker=self.index, listens=answers is not None)
                asked.cancel()

    async def _answers(self) -> bool | None:
        """Whether it answers in time; None where it does not listen.

        What was heard of it before does not count: where it stops before the connection to it is
        made, that only fails, as the one to a process that is gone does.
        """
        clock, stub = asyncio.get_running_loop().time, health_pb2_grpc.HealthStub(self.channel)
        until = clock() + self._hung
        while self._listens():
            try:
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=until - clock())
            except grpc.aio.AioRpcError as error:
                if error.code() not in _NO_ANSWER:
                    return True
            else:
                return True
            if clock() >= until:
                return False
            await asyncio.sleep(_PAUSE)
        return None

    def _listens(self) -> bool:
        """Whether its socket is listened on: the kernel says so, whatever the process does."""
        with socket.socket(socket.AF_UNIX) as trial:
            trial.setblocking(False)
            try:
                trial.connect(self._settings.listen.removeprefix("unix:"))
            except BlockingIOError:  # More wait already than it lets wait.
                return True
            except OSError:
                return False
        return True

    async def _watch(self) -> None:
        stub = health_pb2_grpc.HealthStub(self.channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        while True:
            with suppress(grpc.aio.AioRpcError):
                async for state in stub.Watch(health_pb2.HealthCheckRequest()):
                    self._tell(state.status == serving)
            self._tell(False)
            await asyncio.sleep(_PAUSE)

    def _tell(self, serves: bool) -> None:
        if serves == self.serves:
            return
        self.serves = serves
        self._has_served |= serves
        _log.info("worker", worker=self.index, serves=serves)
        self._changed()
