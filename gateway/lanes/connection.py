"""One connection of the local lane: its calls, their deadlines, what the host takes at a time."""

import asyncio
import math
from collections import deque

from gateway.call import Metadata
from gateway.lanes.failures import failure
from modelyard import frames
from modelyard.errors import DeadlineExceeded, HostGone, MessageTooLarge
from modelyard.frames import Frame, Hello, Malformed, TooLong
from modelyard.links import Link

# A host that owes answers and says nothing is asked whether it lives; who then says nothing for
# so long is gone. In seconds.
QUIET, SILENCE = 10.0, 20.0


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
                raise late()
            number = self._last + 1
            try:
                block = frames.encode_metadata(metadata)
                head = frames.request(number, method, block, int(timeout * 1e9) or 1, size)
            except TooLong as error:
                raise MessageTooLarge(str(error)) from None
            self._last = number
            answer: asyncio.Future[bytes] = loop.create_future()
            self._pending[number] = (answer, deadline)
            if deadline < self._due:
                self._look_at(min(deadline, loop.time() + QUIET))
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
            self._admit()

    def _leave(self, size: int) -> None:
        self._calls -= 1
        self._bytes -= size
        self._admit()

    def _admit(self) -> None:
        """Gives room to those who wait, in order; who waits no more is in nobody's way."""
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
                answer.set_exception(late())
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


def late() -> DeadlineExceeded:
    """What a call is told whose time was over first."""
    return DeadlineExceeded("the host did not answer in time")


def _too_late(place: "asyncio.Future[None]") -> None:
    if not place.done():
        place.set_exception(late())
