"""One end of a connection that speaks frames: greeting, pings, back-pressure, and its end.

Gateway and host add what calls mean. What a peer sends wrong ends its connection with a CLOSE that
says why, and nothing else.
"""

import asyncio
import logging
import time
from collections import deque
from typing import Any

from modelyard import frames
from modelyard.frames import Frame, Hello, Malformed, Parser

_log = logging.getLogger(__name__)

# Who connects has so long to greet, in seconds.
GREETING: float = 5.0
# What a closed connection still has to send has so long to go, in seconds.
_LAST_WORDS = 1.0
# Frames up to this size are joined; a larger payload goes by itself, uncopied.
_JOINED = 64 << 10
# Pieces in which large payloads are handed to the transport, which copies what it must keep.
_PIECE = 256 << 10
# Answers that are made in one turn of the loop wait for each other so long, in seconds.
_TOGETHER = 0.0005


class Link(asyncio.BufferedProtocol):
    """A connection.

    Args:
        own: What this side says of itself.

    Attributes:
        peer: What the other side said; None before it did.
        ended: Why the connection is over; "" while it is not.
        heard_at: When the peer was last heard, on the loop's clock.
        gone: Done once the transport has ended, too.
    """

    def __init__(self, own: Hello) -> None:
        self.peer: Hello | None = None
        self.ended = ""
        self.loop = asyncio.get_running_loop()
        self._own = own
        self._parser = Parser(own.largest)
        self._transport: Any = None
        self._greeting = self.loop.call_later(GREETING, self._not_greeted)
        self._full = False
        self._backlog: deque[memoryview] = deque()
        # What is sent in one turn of the loop, or while frames are being read, goes as one.
        self._held: list[bytes] = []
        self._reading = False
        self._held_since = 0.0
        self.heard_at = 0.0
        self.gone: asyncio.Future[None] = self.loop.create_future()
        # The answer to a ping that found no room.
        self._owed = b""

    # What the two sides fill in.

    def greeted(self) -> None:
        """The peer has said hello."""

    def took(self, frame: Frame) -> None:
        """A frame about a call, or DRAIN; raises Malformed for one that does not belong here."""
        raise NotImplementedError

    def ponged(self, number: int) -> None:
        """A ping came back."""

    def lost(self) -> None:
        """The connection is over; `ended` says why."""

    def filled(self) -> None:
        """The peer takes no more for now."""

    def drained(self) -> None:
        """All that was sent is on its way."""

    # What the two sides use.

    @property
    def unsent(self) -> bool:
        """True while the peer does not take what it is sent."""
        return self._full or bool(self._backlog)

    def send(self, frame: bytes, payload: bytes = b"") -> None:
        """Sends a frame, and the payload that belongs to it; nothing once the link has ended."""
        if self.ended:
            return
        if len(payload) > _JOINED or self._full or self._backlog:
            self._release()
            self._backlog.append(memoryview(frame))
            if payload:
                self._backlog.append(memoryview(payload))
            self._pump()
            return
        if payload:
            frame += payload
        held = self._held
        held.append(frame)
        if self._reading:
            now = time.monotonic()
            if now - self._held_since > _TOGETHER:
                self._release()
                self._held_since = now
        elif len(held) == 1:
            self.loop.call_soon(self._release)

    def close(self, why: str) -> None:
        """Ends the connection, and tells the peer why."""
        if self.ended:
            return
        if not self._backlog:
            self.send(frames.close(why))
            self._release()
        # Into a frame that is half sent no other one fits.
        cut = bool(self._backlog)
        self._end(why)
        if cut:
            self._transport.abort()
        else:
            self._shut()

    # asyncio's.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets."""
        self._transport = transport
        self._transport.write(frames.hello(self._own))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where received bytes go."""
        return self._parser.space()

    def buffer_updated(self, count: int) -> None:
        """Takes the frames that became whole."""
        self._reading, self.heard_at = True, self.loop.time()
        # The clock of uvloop counts whole milliseconds, which is too coarse here.
        self._held_since = time.monotonic()
        try:
            for frame in self._parser.received(count):
                if self.ended:
                    return
                if self.peer is None:
                    self._greet(frame)
                elif frame.type < frames.PING and frame.type != frames.HELLO:
                    self.took(frame)
                else:
                    self._control(frame)
        except Malformed as fault:
            _log.warning("a connection ends: %s", fault)
            self.close(str(fault))
        finally:
            self._release()
            self._reading = False

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._full = True
        self.filled()

    def resume_writing(self) -> None:
        """It has room again."""
        self._full = False
        self._pump()
        if not self._full:
            if self._owed and not self.ended:
                self._transport.write(self._owed)
            self._owed = b""
            self.drained()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is over."""
        self._end(f"the connection broke: {error}" if error else "the other side is gone")
        # Its memory goes now: a cycle with the transport would keep it until one is collected.
        del self._parser
        self.gone.set_result(None)

    # Inside.

    def _greet(self, frame: Frame) -> None:
        if frame.type == frames.CLOSE:
            self._control(frame)
            return
        self.peer = frames.read_hello(frame)
        self._greeting.cancel()
        self.greeted()

    def _not_greeted(self) -> None:
        self.close(f"no HELLO within {GREETING:g} s")

    def _control(self, frame: Frame) -> None:
        if frame.type == frames.PING:
            # Who asks and does not listen piles up no answers.
            if self.unsent:
                self._owed = frames.pong(frame.number)
            else:
                self.send(frames.pong(frame.number))
        elif frame.type == frames.PONG:
            self.ponged(frame.number)
        elif frame.type == frames.DRAIN:
            self.took(frame)
        elif frame.type == frames.CLOSE:
            self._end(frame.text.decode(errors="replace") or "closed")
            self._shut()
        else:
            raise Malformed("a second HELLO")

    def _release(self) -> None:
        """Sends what is held."""
        held = self._held
        if held:
            whole = held[0] if len(held) == 1 else b"".join(held)
            held.clear()
            self._transport.write(whole)

    def _pump(self) -> None:
        backlog, write = self._backlog, self._transport.write
        while backlog and not self._full:
            piece = backlog[0]
            if len(piece) > _PIECE:
                backlog[0], piece = piece[_PIECE:], piece[:_PIECE]
            else:
                backlog.popleft()
            write(piece)

    def _shut(self) -> None:
        """Closes the transport; who does not take what it still holds goes without."""
        self._transport.close()
        self.loop.call_later(_LAST_WORDS, self._transport.abort)

    def _end(self, why: str) -> None:
        if self.ended:
            return
        self.ended = why
        self._greeting.cancel()
        self._backlog.clear()
        self.lost()
