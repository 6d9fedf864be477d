"""An event loop that is nobody's thread alone: whoever has the lock takes its turns.

The loop's own thread holds the lock but while it waits for something to happen. A caller takes it
and begins a coroutine by itself: most calls end with that, and the way to another thread and back,
which costs more than a small model does, is not gone. What does wait goes on in the loop's thread.
"""

import asyncio
import concurrent.futures
import selectors
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from modelyard.eager import Begun
from modelyard.errors import FailedPrecondition

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Gives the lock away for as long as it waits."""

    def __init__(self, lock: threading.Lock) -> None:
        super().__init__()
        self._lock = lock
        # True while the loop's thread wants its lock back: callers then do not take its turns.
        self.wanted = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Waits for events."""
        self._lock.release()
        try:
            return super().select(timeout)
        finally:
            self.wanted = True
            self._lock.acquire()
            self.wanted = False


class Turns:
    """Runs coroutines for threads that wait for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._selector = _Selector(self._lock)
        self._loop = asyncio.SelectorEventLoop(self._selector)
        # It would complain that callers' threads are not its own.
        self._loop.set_debug(False)
        self._closing = False
        # Daemon: who forgets to close it must not be kept from ending.
        self._thread = threading.Thread(target=self._serve, name="modelyard", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], at_once: Callable[[], bool] | None = None) -> T:
        """What the coroutine gives, or raises.

        Args:
            work: The coroutine.
            at_once: Tells whether it may be begun here, where there is no task; asked under the
                lock. None for no.

        Raises:
            FailedPrecondition: It is closed.
        """
        with self._lock:
            if self._closing:
                work.close()
                raise FailedPrecondition("the yard is closed")
            if at_once is None or self._selector.wanted or not at_once():
                # Under the lock, so that nothing comes after the end.
                future = asyncio.run_coroutine_threadsafe(work, self._loop)
            else:
                before = asyncio._get_running_loop()
                asyncio._set_running_loop(self._loop)
                try:
                    waited_for = work.send(None)
                except StopIteration as done:
                    value: T = done.value
                    return value
                finally:
                    asyncio._set_running_loop(before)
                future = asyncio.run_coroutine_threadsafe(Begun(work, waited_for), self._loop)
        return _result(future)

    def close(self) -> None:
        """Ends the loop and its thread, once every coroutine has ended."""
        with self._lock:
            if not self._closing:
                self._closing = True
                asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        self._thread.join()

    async def _end(self) -> None:
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        # One that ended in this very turn is told of in the next: who waits for it would wait on.
        await asyncio.sleep(0)
        self._loop.stop()

    def _serve(self) -> None:
        with self._lock:
            try:
                self._loop.run_forever()
            finally:
                self._loop.close()


def _result(future: "concurrent.futures.Future[T]") -> T:
    try:
        return future.result()
    except BaseException:  # Such as KeyboardInterrupt: nobody waits for it any more.
        future.cancel()
        raise
