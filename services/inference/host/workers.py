"""A few threads with a bounded queue in front, for runs too long for the event loop.

Leaner than an executor: one lock-free queue in, one wake-up of the loop out. A job that nobody
waits for any more is not begun, and one that runs is told to stop.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from modelyard.errors import DeadlineExceeded, Overloaded

T = TypeVar("T")


class Stoppable(Protocol):
    """A handle that ends one run."""

    def stop(self) -> None:
        """Asks the run to end; callable from any thread, at any time."""


class _Job:
    __slots__ = ("abandoned", "deadline", "future", "queued", "stop", "submitted", "work")

    def __init__(
        self,
        work: Callable[[], Any],
        stop: Stoppable,
        deadline: int | None,
        future: "asyncio.Future[Any]",
        submitted: int,
    ) -> None:
        self.work = work
        self.stop = stop
        self.deadline = deadline
        self.future = future
        self.submitted = submitted
        self.queued = 0
        self.abandoned = False


class Workers:
    """Runs jobs on `threads` threads; at most `limit` wait. One event loop uses it.

    Attributes:
        pending: Jobs that wait or run.
        begun: Jobs that began to run.
        stopped: Jobs whose run was ended early because nobody waited any more.
    """

    def __init__(
        self, threads: int, limit: int, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._room = threads + limit
        self._clock = clock
        self.pending = 0
        self.begun = 0
        self.stopped = 0
        self._threads = [
            # Daemons: a run that cannot be stopped must not keep a drained process alive.
            threading.Thread(target=self._serve, name=f"model-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def run(
        self, work: Callable[[], T], stop: Stoppable, deadline: int | None
    ) -> tuple[T, int]:
        """The result of `work`, and how long it waited (nanoseconds).

        Cancelling the awaiting task, and the deadline (on the clock, in nanoseconds), drop
        the job where it waits and stop it where it runs.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: The deadline passed first.
        """
        if self.pending >= self._room:
            raise Overloaded("the model's queue is full")
        now = self._clock()
        future: asyncio.Future[T] = self._loop.create_future()
        job = _Job(work, stop, deadline, future, now)
        timer = None
        if deadline is not None:
            timer = self._loop.call_later((deadline - now) / 1e9, self._expire, job)
        self.pending += 1
        self._jobs.put(job)
        try:
            return await future, job.queued
        except asyncio.CancelledError:
            self._abandon(job)
            if future.done() and not future.cancelled():
                # It failed in this very turn: looked at, so that asyncio does not tell of it.
                future.exception()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        """Lets the threads end, each after the job it has."""
        for _ in self._threads:
            self._jobs.put(None)

    def _abandon(self, job: _Job) -> None:
        job.abandoned = True
        job.stop.stop()

    def _expire(self, job: _Job) -> None:
        self._abandon(job)
        if not job.future.done():
            job.future.set_exception(DeadlineExceeded("the call's time was over before its answer"))

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            result: Any = None
            error: BaseException | None = None
            began = False
            if not job.abandoned:
                now = self._clock()
                job.queued = now - job.submitted
                if job.deadline is not None and now >= job.deadline:
                    error = DeadlineExceeded("the call's time was over before its run began")
                else:
                    began = True
                    try:
                        result = job.work()
                    except BaseException as raised:
                        error = raised
            try:
                self._loop.call_soon_threadsafe(self._settle, job, began, result, error)
            except RuntimeError:  # the loop is closed: nobody waits
                return
            del job, result, error

    def _settle(self, job: _Job, began: bool, result: Any, error: BaseException | None) -> None:
        self.pending -= 1
        self.begun += began
        if began and job.abandoned and error is not None:
            self.stopped += 1
        if job.future.done():
            return
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(result)
