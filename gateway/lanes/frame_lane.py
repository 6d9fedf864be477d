"""The local lane: frames over a unix socket, to a host on this machine.

One connection a host carries all its calls. While it is not there, another lane is asked.
"""

import asyncio
import contextlib
import logging
import math
import random
from collections import deque
from collections.abc import Callable, Coroutine

from gateway.call import Endpoint, Metadata
from gateway.lanes.failures import failure
from modelyard import frames
from modelyard.backoff import Backoff
from modelyard.errors import DeadlineExceeded, HostGone, MessageTooLarge
from modelyard.frames import Frame, Hello, Malformed
from modelyard.links import GREETING, Link

_log = logging.getLogger(__name__)

# A host that owes answers and says nothing is asked whether it lives; who then says nothing for
# so long is gone. In seconds.
QUIET, SILENCE = 10.0, 20.0
# The first calls wait so long for the connection before they take another lane, in seconds.
_FIRST = 0.25
_BACKOFF = Backoff(first=0.05, factor=2.0, limit=5.0)


class Connection(Link):
    """One connection to a host.

    Attributes:
        open: True while calls may begin: greeted, not drained, not over.
        over: Done once the connection has ended.
    """

    def __init__(self, largest: int) -> None:
        super().__init__(Hello(largest, who="gateway"))
        self.open = False
        self.over: asyncio.Future[None] = self.loop.create_future()
        self.known: asyncio.Future[None] = self.loop.create_future()
        self._last = 0
        # By number: the answer to come, and until when.
        self._pending: dict[int, tuple[asyncio.Future[bytes], float]] = {}
        self._largest = largest
        # What the host takes, and what of it is taken.
        self._most_calls = self._most_bytes = 0
        self._calls = self._bytes = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        # One timer looks after the deadlines of all calls.
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._asked_at = 0.0

    async def call(self, method: str, payload: bytes, metadata: Metadata, timeout: float) -> bytes:
        """Sends one request; see `Endpoint.call`."""
        size, loop = len(payload), self.loop
        if size > self._largest:
            raise MessageTooLarge(f"a request of {size} bytes; the host takes {self._largest}")
        deadline = loop.time() + timeout
        if self._waiting or not self._fits(size):
            await self._room(size, deadline)
            timeout = deadline - loop.time()
        else:
            self._calls += 1
            self._bytes += size
        try:
            if not self.open:
                raise HostGone(self.ended or "the host ends; try another")
            if timeout <= 0:
                raise _late()
            number = self._last = self._last + 1
            answer: asyncio.Future[bytes] = loop.create_future()
            self._pending[number] = (answer, deadline)
            if deadline < self._due:
                self._look_at(min(deadline, loop.time() + QUIET))
            block = frames.encode_metadata(metadata)
            head = frames.request(number, method, block, int(timeout * 1e9) or 1, size)
            self.send(head, payload)
            try:
                return await answer
            except asyncio.CancelledError:
                if self._pending.pop(number, None) is not None:
                    self.send(frames.cancel(number))
                raise
        finally:
            self._leave(size)

    @property
    def pending(self) -> int:
        """Calls under way."""
        return len(self._pending)

    def greeted(self) -> None:
        """The host says what it takes."""
        assert self.peer is not None, "it has just greeted"
        if not self.peer.calls:
            raise Malformed("a host that takes no calls")
        self._largest = min(self._largest, self.peer.largest, self.peer.bytes)
        self._most_calls, self._most_bytes = self.peer.calls, self.peer.bytes
        self.open = True
        if not self.known.done():
            self.known.set_result(None)

    def took(self, frame: Frame) -> None:
        """An answer, or that the host takes no new calls."""
        if frame.type == frames.ANSWER:
            answer = self._answer(frame)
            if answer is not None:
                payload = frame.payload
                answer.set_result(payload if type(payload) is bytes else bytes(payload))
        elif frame.type == frames.STATUS:
            trailing = frames.decode_metadata(frame.metadata)
            answer = self._answer(frame)
            if answer is not None:
                message = frame.text.decode(errors="replace")
                answer.set_exception(failure(frame.code, message, trailing))
        elif frame.type == frames.DRAIN:
            self.open = False
            self._refuse_waiting("the host ends; try another")
        else:
            raise Malformed("a host asks nothing of a gateway")

    def lost(self) -> None:
        """Nothing is known any more of the calls under way."""
        self.open = False
        if self._timer is not None:
            self._timer.cancel()
        pending, self._pending = self._pending, {}
        for answer, _ in pending.values():
            if not answer.done():
                answer.set_exception(HostGone(f"the connection to the host: {self.ended}"))
        self._refuse_waiting(self.ended)
        for told in (self.known, self.over):
            if not told.done():
                told.set_result(None)

    def _answer(self, frame: Frame) -> "asyncio.Future[bytes] | None":
        """Who waits for this answer; None where the call was given up."""
        known = self._pending.pop(frame.call, None)
        if known is not None:
            return known[0] if not known[0].done() else None
        if frame.call > self._last:
            raise Malformed(f"an answer to call {frame.call}, which nobody made")
        return None

    # The host takes so many calls, and bytes, at a time.

    def _fits(self, size: int) -> bool:
        return self._calls < self._most_calls and self._bytes + size <= self._most_bytes

    async def _room(self, size: int, deadline: float) -> None:
        """Waits for room, and takes it."""
        if self.ended or (self.peer is not None and not self.open):
            raise HostGone(self.ended or "the host ends; try another")
        place: asyncio.Future[None] = self.loop.create_future()
        self._waiting.append((place, size))
        timer = self.loop.call_at(deadline, _too_late, place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._leave(size)  # It was given in this very turn.
            raise
        finally:
            timer.cancel()

    def _leave(self, size: int) -> None:
        self._calls -= 1
        self._bytes -= size
        while self._waiting:
            place, wanted = self._waiting[0]
            if not place.done():
                if not self._fits(wanted):
                    return
                self._calls += 1
                self._bytes += wanted
                place.set_result(None)
            self._waiting.popleft()

    def _refuse_waiting(self, why: str) -> None:
        waiting, self._waiting = self._waiting, deque()
        for place, _ in waiting:
            if not place.done():
                place.set_exception(HostGone(why))

    # Deadlines, and whether the host lives.

    def _look_at(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = moment
        self._timer = self.loop.call_at(moment, self._look)

    def _look(self) -> None:
        """Ends the calls whose time is over, and asks a host that is silent."""
        self._timer, self._due = None, math.inf
        now = self.loop.time()
        for number in [n for n, (_, deadline) in self._pending.items() if deadline <= now]:
            answer, _ = self._pending.pop(number)
            self.send(frames.cancel(number))
            if not answer.done():
                answer.set_exception(_late())
        if not self._pending:
            return
        if self._asked_at > self.heard_at:
            if now - self._asked_at >= SILENCE:
                self.close(f"nothing was heard for {now - self.heard_at:.0f} s")
                return
        elif now - self.heard_at >= QUIET:
            self._asked_at = now
            self.send(frames.ping(0))
        soonest = min(deadline for _, deadline in self._pending.values())
        self._look_at(min(soonest, now + QUIET))


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the host did not answer in time")


def _too_late(place: "asyncio.Future[None]") -> None:
    if not place.done():
        place.set_exception(_late())


class FrameEndpoint:
    """An endpoint over the local lane. Implements `gateway.call.Endpoint`.

    Connects as soon as it is made, and again whenever the connection ends.

    Args:
        address: `unix:/path`.
        largest: The largest message, in bytes.
        beside: Makes the endpoint that is asked while there is no connection; None for none.
        chance: Draws the pauses between two tries.
    """

    def __init__(
        self,
        address: str,
        largest: int,
        beside: Callable[[], Endpoint] | None,
        chance: random.Random,
    ) -> None:
        self._path = address.removeprefix("unix:")
        self._largest = largest
        self._make_beside = beside
        self._beside: Endpoint | None = None
        self._chance = chance
        self._connection: Connection | None = None
        self._tried = asyncio.Event()
        self._closed = False
        self._keeper = asyncio.create_task(self._keep())

    @property
    def lane(self) -> str:
        """Which lane the next call takes."""
        if self._connection is not None or self._make_beside is None:
            return "frames"
        return "grpc"

    def call(
        self, method: str, payload: bytes, metadata: Metadata, timeout: float
    ) -> Coroutine[None, None, bytes]:
        """Sends one request; see `Endpoint.call`."""
        connection = self._connection
        if connection is not None:
            return connection.call(method, payload, metadata, timeout)
        return self._call_otherwise(method, payload, metadata, timeout)

    async def _call_otherwise(
        self, method: str, payload: bytes, metadata: Metadata, timeout: float
    ) -> bytes:
        if not self._tried.is_set():
            began = asyncio.get_running_loop().time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(timeout, _FIRST)):
                    await self._tried.wait()
            timeout -= asyncio.get_running_loop().time() - began
        if timeout <= 0:
            raise _late()
        if self._connection is not None:
            return await self._connection.call(method, payload, metadata, timeout)
        if self._closed or self._make_beside is None:
            raise HostGone("there is no connection to the host")
        if self._beside is None:
            self._beside = self._make_beside()
        return await self._beside.call(method, payload, metadata, timeout)

    async def close(self) -> None:
        """Closes the connection; see `Endpoint.close`."""
        self._closed = True
        self._keeper.cancel()
        if self._connection is not None:
            self._connection.close("the gateway ends")
            self._connection = None
        if self._beside is not None:
            await self._beside.close()
        await asyncio.gather(self._keeper, return_exceptions=True)

    async def _keep(self) -> None:
        """Keeps a connection."""
        failures = 0
        while True:
            why = "it does not greet"
            try:
                connection = await self._open()
            except OSError as error:
                why = error.strerror or str(error)
            else:
                if connection.open:
                    failures = 0
                    self._connection = connection
                    self._tried.set()
                    _log.debug("frames to %s", self._path)
                    await connection.over
                    self._connection = None
                why = connection.ended
            failures += 1
            self._tried.set()
            if failures == 1:
                _log.info("no frames to %s: %s", self._path, why)
            await asyncio.sleep(_BACKOFF.wait(failures, self._chance))

    async def _open(self) -> Connection:
        """A connection that was greeted, or is over; raises OSError where nobody listens."""
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_unix_connection(
            lambda: Connection(self._largest), self._path
        )
        try:
            async with asyncio.timeout(GREETING):
                await connection.known
        except BaseException:
            transport.abort()
            raise
        return connection
