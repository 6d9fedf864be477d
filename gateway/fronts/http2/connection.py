"""One caller's connection: frames in, requests to those who answer, responses out.

In one class, though long: windows, turns, limits and ends are one state, and most frames change
several parts of it.

What a caller sends wrong ends its own stream, or its own connection, and nobody else's. Nothing
that it sends makes us hold more than its windows allow, and it is sent no more than it reads.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from gateway.fronts.http2 import frames
from gateway.fronts.http2.fields import MOST, Head, Heads, Malformed
from gateway.fronts.http2.frames import Broken, Code
from gateway.fronts.http2.parser import LARGEST, Parser
from gateway.fronts.http2.stream import WINDOW, Stream

_log = logging.getLogger(__name__)

# Streams of a connection at a time.
STREAMS: Final = 10_000
# What a connection may send before more is asked for; of its streams each has a window of its own.
_WINDOW: Final = 16 << 20
# What we write before the transport says that it is enough; a caller that reads nothing while it
# makes us answer (pings, settings, refusals) goes at four times that.
_FULL: Final = 1 << 20
# Callers that hedge reset streams all day (CVE-2023-44487 is of more): at once, and a second.
_RESETS, _RESETS_A_SECOND = 100_000, 10_000
# Frames in a row that carry nothing.
_EMPTY: Final = 1_000
# A caller that says nothing for so long is asked whether it lives, and has so long to answer.
_QUIET, _SILENCE = 60.0, 20.0
# Between the first word that a connection shall go and the last: calls on their way come in.
GOING: Final = 0.2

# Makes the stream of a request.
Open = Callable[["Connection", int, Head, int, float], Stream]


class Connection(asyncio.Protocol):
    """A connection on which the preface was read.

    Args:
        open: Makes its streams.
        left: Is told when it is gone.
        limit: Bytes that a message may have.
        clock: The clock of every deadline.

    Attributes:
        window: Bytes that the caller takes.
        streams: Under way, by number.
    """

    def __init__(
        self,
        open: Open,
        left: Callable[["Connection"], None],
        limit: int,
        clock: Callable[[], float],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.limit = limit
        self.window = frames.WINDOW
        self.streams: dict[int, Stream] = {}
        self._open = open
        self._left = left
        self._clock = clock
        self._heads = Heads()
        self._transport: Any = None
        self._parser = Parser(self)
        self._paused = self._over = False
        # What is sent in one turn of the loop, to go as one.
        self._held: list[bytes] = []
        self._opened: list[Stream] = []
        # Those with something to send that found no room, in the order of their turns.
        self._waiting: dict[int, Stream] = {}
        self._turn: asyncio.Handle | None = None
        # The caller's words.
        self._their_window, self._their_frame = frames.WINDOW, frames.FRAME
        self._last = 0
        # What it may send, and what it has sent since it was told so.
        self._allowed, self._taken = _WINDOW, 0
        self._resets, self._resets_at = 0.0, 0.0
        self._empty = 0
        # Where no stream is begun any more: the last that may be.
        self._final: int | None = None
        self._leaving = False
        self._heard_at = self.loop.time()
        self._timer = self.loop.call_later(_QUIET, self._look)
        self._asked = False

    # asyncio's.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Says what we take."""
        self._transport = transport
        self._transport.set_write_buffer_limits(high=_FULL)
        ours = {
            frames.MOST_STREAMS: STREAMS,
            frames.INITIAL_WINDOW: WINDOW,
            frames.MAX_FRAME: LARGEST,
            frames.MAX_HEADERS: MOST,
        }
        more = frames.window_update(0, _WINDOW - frames.WINDOW)
        self._transport.write(frames.settings(ours) + more)

    def data_received(self, data: bytes) -> None:
        """Takes the frames that became whole."""
        if self._over:
            return
        self._heard_at, self._asked = self.loop.time(), False
        try:
            self._parser.feed(data)
            if self._transport.get_write_buffer_size() > 4 * _FULL:
                raise Broken(Code.ENHANCE_YOUR_CALM, "nobody reads what is answered")
        except Broken as fault:
            self._break(fault)
        if self._opened:
            for stream in self._opened:
                stream.wait()
            self._opened.clear()

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """It has room again."""
        self._paused = False
        self._go_round()

    def connection_lost(self, error: Exception | None) -> None:
        """Its calls are given up."""
        self._end()
        self._left(self)

    # What streams use.

    @property
    def room(self) -> int:
        """Bytes that the next DATA may have."""
        return 0 if self._paused else min(self.window, self._their_frame)

    def has_room(self, size: int) -> bool:
        """Whether so much can go as one frame, now."""
        return size <= self.window and size <= self._their_frame and not self._paused

    def write(self, data: bytes) -> None:
        """Sends, with all else of this turn of the loop; nothing once the connection is over."""
        if not self._over:
            self._held.append(data)
            if len(self._held) == 1:
                self.loop.call_soon(self._release)

    def write_now(self, data: memoryview) -> None:
        """Sends what is large, after what waits."""
        if not self._over:
            self._release()
            self._transport.write(data)

    def send(self, stream: Stream) -> None:
        """Sends what a stream has, in turn with others."""
        sent = stream.pump()
        if stream.unsent:
            self._waiting[stream.id] = stream
            if sent and self._turn is None and min(self.room, stream.window) > 0:
                self._turn = self.loop.call_soon(self._go_round)

    def replenish(self, stream: Stream) -> None:
        """Lets the caller send more of a stream: what it sent was taken."""
        if stream.allowed <= WINDOW // 2 and not stream.over:
            self.write(frames.window_update(stream.id, WINDOW - stream.allowed))
            stream.allowed = WINDOW

    def closed(self, stream: Stream) -> None:
        """A stream's last word is said."""
        self.streams.pop(stream.id, None)
        self._waiting.pop(stream.id, None)
        if not stream.ended:
            # Whatever the caller still has to say of it, nobody needs it.
            self.write(frames.reset(stream.id, Code.NO_ERROR))
        self._leave_when_idle()

    def reset(self, stream: Stream, code: Code) -> None:
        """Ends a stream without a word."""
        self.write(frames.reset(stream.id, code))
        self._drop(stream)

    # What the front uses.

    def leave(self) -> None:
        """Asks the caller to go: no new call from soon on, and the end when none is left."""
        if self._leaving or self._over:
            return
        self._leaving = True
        self.write(frames.goaway(frames.LARGEST_WINDOW))
        self.loop.call_later(GOING, self._leave_now)

    def abort(self) -> None:
        """Ends at once, with what is under way."""
        self._end()
        self._transport.abort()

    # What came: see `parser.Sink`.

    def coming(self, number: int, size: int, flags: int) -> None:
        """Keeps the books of flow control."""
        if number == 0 or number > self._last:
            raise Broken(Code.PROTOCOL_ERROR, f"DATA of stream {number}, which is not there")
        if size:
            self._empty = 0
        elif not flags & frames.END_STREAM:
            self._empty += 1
            if self._empty > _EMPTY:
                raise Broken(Code.ENHANCE_YOUR_CALM, "frames that carry nothing")
        self._allowed -= size
        if self._allowed < 0:
            raise Broken(Code.FLOW_CONTROL_ERROR, "more than the connection's window")
        self._taken += size
        if self._taken >= _WINDOW // 2:
            self.write(frames.window_update(0, self._taken))
            self._allowed += self._taken
            self._taken = 0
        stream = self.streams.get(number)
        if stream is not None:
            stream.allowed -= size
            if stream.allowed < 0:
                self.reset(stream, Code.FLOW_CONTROL_ERROR)

    def data(self, number: int, piece: bytes, end: bool) -> None:
        """Gives it to its stream."""
        stream = self.streams.get(number)
        if stream is None:
            return  # Of one that is over: it was on its way.
        if stream.ended:
            self.reset(stream, Code.STREAM_CLOSED)
            return
        stream.ended = end
        stream.take(piece, end)

    def headers(self, number: int, end: bool, block: bytes) -> None:
        """Begins a stream, or ends one by trailers."""
        if 0 < number <= self._last:
            # Trailers, which say nothing here, or of a stream that is over. Read in any case: the
            # table that both sides keep goes on.
            self._heads.decode(block)
            stream = self.streams.get(number)
            if stream is not None:
                if not end:
                    self.reset(stream, Code.PROTOCOL_ERROR)
                else:
                    self.data(number, b"", True)
            return
        if number % 2 == 0:
            raise Broken(Code.PROTOCOL_ERROR, f"stream {number}, which is not a caller's")
        self._last = number
        try:
            head = self._heads.read(block)
        except Malformed:
            self.write(frames.reset(number, Code.PROTOCOL_ERROR))
            return
        if self._final is not None:
            return  # It was told that none is begun any more.
        if len(self.streams) >= STREAMS:
            self.write(frames.reset(number, Code.REFUSED_STREAM))
            return
        stream = self._open(self, number, head, self._their_window, self._clock())
        stream.ended = end
        self.streams[number] = stream
        stream.begin()
        if end:
            if not stream.over:
                stream.take(b"", True)
        else:
            self._opened.append(stream)

    def control(self, kind: int, flags: int, number: int, body: bytes) -> None:
        """All that is about windows, settings, life and ends."""
        match kind:
            case frames.SETTINGS:
                self._settings(flags, number, body)
            case frames.WINDOW_UPDATE:
                self._widen(number, frames.number(body, "WINDOW_UPDATE"))
            case frames.RST_STREAM:
                frames.number(body, "RST_STREAM")
                self._was_reset(number)
            case frames.PING:
                if len(body) != 8 or number:
                    raise Broken(Code.FRAME_SIZE_ERROR, f"PING of {len(body)} bytes")
                if not flags & frames.ACK:
                    self.write(frames.ping(body, answer=True))
            case frames.PUSH_PROMISE:
                raise Broken(Code.PROTOCOL_ERROR, "a caller promises nothing")
            case frames.GOAWAY:
                if number:
                    raise Broken(Code.PROTOCOL_ERROR, "GOAWAY of a stream")
            case frames.PRIORITY:
                if len(body) != 5 or not number:
                    raise Broken(Code.FRAME_SIZE_ERROR, f"PRIORITY of {len(body)} bytes")

    def _settings(self, flags: int, number: int, body: bytes) -> None:
        if number or (flags & frames.ACK and body):
            raise Broken(Code.PROTOCOL_ERROR, "SETTINGS of a stream, or an answer that says more")
        if flags & frames.ACK:
            return
        for key, value in frames.read_settings(body):
            if key == frames.INITIAL_WINDOW:
                if value > frames.LARGEST_WINDOW:
                    raise Broken(Code.FLOW_CONTROL_ERROR, f"a window of {value} bytes")
                for stream in self.streams.values():
                    stream.window += value - self._their_window
                self._their_window = value
            elif key == frames.MAX_FRAME:
                if not frames.FRAME <= value < 1 << 24:
                    raise Broken(Code.PROTOCOL_ERROR, f"frames of {value} bytes")
                # No larger than we like to write at once.
                self._their_frame = min(value, LARGEST)
        self.write(frames.settings_ack())
        self._go_round()

    def _widen(self, number: int, more: int) -> None:
        if number == 0:
            self.window += more
            if more == 0 or self.window > frames.LARGEST_WINDOW:
                raise Broken(Code.FLOW_CONTROL_ERROR, f"a window {more} bytes wider")
            self._go_round()
            return
        if number > self._last:
            raise Broken(Code.PROTOCOL_ERROR, f"a window of stream {number}, which is not there")
        stream = self.streams.get(number)
        if stream is None:
            return
        stream.window += more
        if more == 0 or stream.window > frames.LARGEST_WINDOW:
            self.reset(stream, Code.FLOW_CONTROL_ERROR)
        elif stream.unsent:
            self.send(stream)

    def _was_reset(self, number: int) -> None:
        if number == 0 or number > self._last:
            raise Broken(Code.PROTOCOL_ERROR, f"a reset of stream {number}, which is not there")
        elapsed, self._resets_at = self._heard_at - self._resets_at, self._heard_at
        self._resets = max(0.0, self._resets - elapsed * _RESETS_A_SECOND) + 1
        if self._resets > _RESETS:
            raise Broken(Code.ENHANCE_YOUR_CALM, "too many resets")
        stream = self.streams.get(number)
        if stream is not None:
            self._drop(stream)

    # Turns, ends.

    def _release(self) -> None:
        held = self._held
        if held:
            whole = held[0] if len(held) == 1 else b"".join(held)
            held.clear()
            self._transport.write(whole)

    def _go_round(self) -> None:
        """Gives every stream that waits for room its turn."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        for stream in tuple(self._waiting.values()):
            if self.room <= 0:
                return
            self._waiting.pop(stream.id, None)
            self.send(stream)

    def _drop(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)
        self._waiting.pop(stream.id, None)
        stream.drop()
        self._leave_when_idle()

    def _break(self, fault: Broken) -> None:
        _log.info("a connection ends: %s", fault.why)
        last = self._last if self._final is None else self._final
        self.write(frames.goaway(last, fault.code, fault.why))
        self._release()
        self._end()
        self._transport.close()

    def _end(self) -> None:
        """Gives up what is under way."""
        self._over = self._parser.over = True
        self._held.clear()
        self._timer.cancel()
        if self._turn is not None:
            self._turn.cancel()
        streams, self.streams = self.streams, {}
        self._waiting.clear()
        for stream in streams.values():
            stream.drop()

    def _leave_now(self) -> None:
        if self._over or self._final is not None:
            return
        self._final = self._last
        self.write(frames.goaway(self._last))
        self._leave_when_idle()

    def _leave_when_idle(self) -> None:
        if self._final is not None and not self.streams and not self._over:
            self._release()
            self._over = self._parser.over = True
            self._timer.cancel()
            self._transport.close()

    def _look(self) -> None:
        """Asks a caller that is silent whether it lives; one that is not goes, with its calls."""
        quiet = self.loop.time() - self._heard_at
        if quiet < _QUIET:
            self._timer = self.loop.call_later(_QUIET - quiet, self._look)
        elif not self._asked:
            self._asked = True
            self.write(frames.ping(b"are you?"))
            self._timer = self.loop.call_later(_SILENCE, self._look)
        else:
            self.abort()
