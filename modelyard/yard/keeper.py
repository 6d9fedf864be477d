"""Keeps one room's process running until it is told to stop."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from modelyard.errors import FailedPrecondition
from modelyard.yard import logs

_TETHER = str(Path(__file__).with_name("tether.py"))
# A process that ran so long was well; its next end is not the same fault again.
_WELL = 30.0
_FIRST_DELAY, _LONGEST_DELAY = 0.25, 15.0
# Ends in a row before the yard gives up on a room that was never ready.
_TRIES = 3
_POLL = 0.05


@dataclass(frozen=True, slots=True)
class Room:
    """A process of the yard.

    Attributes:
        name: As people know it.
        argv: The program by its full path, and its arguments.
        log: Takes what the process writes.
        ready: Tells whether the room answers.
        grace: Seconds between SIGTERM and SIGKILL.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    ready: Callable[[], Awaitable[bool]]
    grace: float = 30.0


class Keeper:
    """Starts a room's process, starts it again when it ends, and ends it.

    Args:
        room: The room.
        say: Takes a line for the person who watches.
    """

    def __init__(self, room: Room, say: Callable[[str], None]) -> None:
        self.room = room
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._failures = 0
        self._was_ready = False
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The running process, if there is one."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def start(self, patience: float) -> None:
        """Starts the room and returns when it is ready.

        Raises:
            FailedPrecondition: It ended several times, or is not ready after `patience` seconds.
        """
        self._task = asyncio.create_task(self._keep(), name=f"keep {self.room.name}")
        deadline = asyncio.get_running_loop().time() + patience
        while not (self.pid and await self.room.ready()):
            if self._failures >= _TRIES:
                raise FailedPrecondition(self._complaint("does not stay up"))
            if asyncio.get_running_loop().time() > deadline:
                raise FailedPrecondition(self._complaint(f"is not ready after {patience:g} s"))
            await asyncio.sleep(_POLL)
        self._was_ready = True
        self._failures = 0

    async def stop(self) -> None:
        """Ends the process: SIGTERM, and SIGKILL when its grace is over."""
        self._stopping.set()
        process = self._process
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), self.room.grace)
            except TimeoutError:
                self._say(f"{self.room.name} did not end in {self.room.grace:g} s; killed")
                self.kill()
                await process.wait()
        if self._task is not None:
            await self._task

    def kill(self) -> None:
        """Ends the process at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            began = loop.time()
            self._process = process = await self._spawn()
            if self._stopping.is_set():  # While it was being made.
                with suppress(ProcessLookupError):
                    process.terminate()
            code = await process.wait()
            if self._stopping.is_set():
                return
            self._failures = 1 if loop.time() - began > _WELL else self._failures + 1
            delay = min(_FIRST_DELAY * 2 ** (self._failures - 1), _LONGEST_DELAY)
            delay *= random.uniform(0.8, 1.2)
            if self._was_ready:
                self._say(
                    f"{self.room.name} ended ({_cause(code)}); starts again in {delay:.1f} s"
                    f" (log: {self.room.log})"
                )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _spawn(self) -> asyncio.subprocess.Process:
        logs.bound(self.room.log)
        with self.room.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", _TETHER, str(os.getpid()), *self.room.argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C in the terminal is for the yard, which ends its rooms in order. No
                # session of its own: see `modelyard.background`.
                process_group=0,
            )

    def _complaint(self, what: str) -> str:
        lines = logs.tail(self.room.log)
        return f"{self.room.name} {what}; its log ({self.room.log}) ends with:\n{lines}"


def _cause(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
