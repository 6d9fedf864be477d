"""One connection, in memory: what callers may send in any pieces, and what they may not send.

Past 300 lines: all of it speaks through the one caller in memory that stands at the top.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import hpack
import numpy as np
import pytest

from gateway.call import Answer, Call
from gateway.fronts import asgi, wire
from gateway.fronts.http2 import connection as module
from gateway.fronts.http2 import frames
from gateway.fronts.http2.application import Application
from gateway.fronts.http2.connection import Connection
from gateway.fronts.http2.frames import Code
from gateway.fronts.http2.stream import WINDOW
from gateway.fronts.paths import INFER, STREAM
from gateway.plan import Kind
from modelyard.errors import ModelNotFound
from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.names import VersionName
from tests.kit import virtual_time

LIMIT = 8 << 20
V1 = VersionName("m", 1)
HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", INFER),
    (":authority", "here"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


class Transport:
    """Keeps what is written; full when a test says so."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = self.aborted = False
        self.waiting = 0

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def set_write_buffer_limits(self, high: int) -> None:
        pass


class Caller:
    """A caller of a service, over a connection in memory."""

    def __init__(self, service: Any, **settings: int) -> None:
        clock = asyncio.get_running_loop().time
        nobody: Any = None
        plain = asgi.Application(service, clock, LIMIT, nobody)
        application = Application(service, clock, plain, nobody)
        self.left: list[Connection] = []
        self.connection = Connection(application.open, self.left.append, LIMIT, clock)
        self.transport = Transport()
        self.connection.connection_made(self.transport)
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                validate_outbound_headers=False, normalize_outbound_headers=False
            )
        )
        self.h2.local_settings.update(settings)
        self.h2.initiate_connection()
        self.events: list[Any] = []
        self.say(self.h2.data_to_send()[len(frames.PREFACE) :])

    def say(self, data: bytes) -> None:
        """Bytes to the front."""
        self.connection.data_received(data)

    def flush(self) -> None:
        self.say(self.h2.data_to_send())

    def begin(self, *more: tuple[str, str], path: str = INFER, end: bool = False) -> int:
        stream = self.h2.get_next_available_stream_id()
        headers = [(k, path if k == ":path" else v) for k, v in HEADERS]
        self.h2.send_headers(stream, [*headers, *more], end_stream=end)
        return stream

    def ask(self, body: bytes = b"", **given: Any) -> int:
        """A whole request."""
        stream = self.begin(**given)
        self.h2.send_data(stream, body or framed(), end_stream=True)
        self.flush()
        return stream

    async def hear(self) -> None:
        """Takes what the front sent, acknowledges it, until there is no more."""
        for _ in range(10_000):
            await asyncio.sleep(0.001)
            written, self.transport.written = self.transport.written, b""
            if not written:
                return
            for frame in whole_frames(written):
                self.take(frame)
            self.flush()
        raise AssertionError("it never ends")

    def take(self, frame: bytes) -> None:
        """A frame of the front's."""
        for event in self.h2.receive_data(frame):
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if isinstance(event, h2.events.ConnectionTerminated):
                # To h2 it ends all, to HTTP/2 new streams alone.
                self.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN

    def of(self, kind: type, stream: int) -> list[Any]:
        return [e for e in self.events if isinstance(e, kind) and vars(e)["stream_id"] == stream]

    def data(self, stream: int) -> bytes:
        return b"".join(e.data for e in self.of(h2.events.DataReceived, stream))

    def status(self, stream: int) -> str | None:
        for kind in (h2.events.TrailersReceived, h2.events.ResponseReceived):
            for event in self.of(kind, stream):
                found = dict(event.headers).get(b"grpc-status")
                if found is not None:
                    return str(found.decode())
        return None

    @property
    def goaway(self) -> Any:
        gone = [e for e in self.events if isinstance(e, h2.events.ConnectionTerminated)]
        return gone[-1] if gone else None


def framed(model: str = "m", size: int = 8) -> bytes:
    request = pb.ModelInferRequest(model_name=model)
    request.raw_input_contents.append(bytes(size))
    return wire.framed(request.SerializeToString())


def answering(payload: bytes = b"answer") -> Callable[[Call], Any]:
    async def service(call: Call) -> Answer:
        if call.model != "m":
            raise ModelNotFound("there is none")
        await asyncio.sleep(0)
        return Answer(payload, V1, Kind.PRIMARY)

    return service


def test_any_pieces_of_the_same_bytes_are_the_same_request() -> None:
    async def main() -> None:
        rng = np.random.default_rng(3)
        for _ in range(60):
            caller = Caller(answering())
            await caller.hear()
            body = framed(size=int(rng.integers(0, 20_000)))
            streams = []
            for _ in range(3):
                stream = caller.begin(("x-user", str(rng.integers(0, 3))))
                for at in range(0, len(body), 16_384):
                    caller.h2.send_data(stream, body[at : at + 16_384])
                caller.h2.end_stream(stream)
                streams.append(stream)
            sent = caller.h2.data_to_send()
            cuts = sorted(rng.integers(0, len(sent), int(rng.integers(0, 12))).tolist())
            for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
                caller.say(sent[start:end])
            await caller.hear()
            assert [caller.status(s) for s in streams] == ["0"] * 3
            assert all(caller.data(s) == wire.framed(b"answer") for s in streams)
            caller.connection.abort()

    virtual_time.run(main())


def test_an_error_comes_without_a_body_and_a_late_end_is_reset() -> None:
    async def main() -> None:
        caller = Caller(answering())
        stream = caller.ask(framed("nope"))
        # A request above what is taken is refused before it is whole.
        large = caller.begin()
        caller.h2.send_data(large, struct.pack(">BI", 0, LIMIT + 1))
        caller.flush()
        await caller.hear()
        assert (caller.status(stream), caller.data(stream)) == ("5", b"")
        assert caller.status(large) == "8"
        (reset,) = caller.of(h2.events.StreamReset, large)
        assert reset.error_code == Code.NO_ERROR
        # What was still on its way harms nobody.
        head = frames.head(5, frames.DATA, 0, large)
        caller.say(head + b"12345")
        assert caller.ask() and not caller.connection.streams[5].over
        await caller.hear()
        assert caller.status(5) == "0"
        caller.connection.abort()

    virtual_time.run(main())


@pytest.mark.parametrize("windows", [1, 1000, 16_384, 65_535, 1 << 20])
def test_who_takes_little_is_sent_little(windows: int) -> None:
    async def main() -> None:
        payload = bytes(range(256)) * (400 if windows > 1 else 1)
        caller = Caller(answering(payload), **{})
        caller.h2.update_settings({4: windows})
        caller.flush()
        streams = [caller.ask() for _ in range(4)]
        await asyncio.sleep(0.01)
        # Nothing was acknowledged yet: no stream has more than its window.
        sent = h2_frames(caller.transport.written)
        for stream in streams:
            assert sum(len(b) for k, s, b in sent if (k, s) == (frames.DATA, stream)) <= windows
        assert sum(len(b) for k, _, b in sent if k == frames.DATA) <= frames.WINDOW
        await caller.hear()
        assert [caller.data(s) for s in streams] == [wire.framed(payload)] * 4
        assert [caller.status(s) for s in streams] == ["0"] * 4
        caller.connection.abort()

    virtual_time.run(main())


def whole_frames(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(data):
        after = at + 9 + int.from_bytes(data[at : at + 3], "big")
        found.append(data[at:after])
        at = after
    return found


def h2_frames(data: bytes) -> list[tuple[int, int, bytes]]:
    """Kind, stream and body of each."""
    return [(f[3], int.from_bytes(f[5:9], "big"), f[9:]) for f in whole_frames(data)]


def test_a_full_transport_is_sent_no_data_and_streams_take_turns() -> None:
    async def main() -> None:
        caller = Caller(answering(bytes(3 << 20)))
        caller.h2.update_settings({4: 1 << 30})
        caller.h2.increment_flow_control_window(1 << 30)
        caller.flush()
        caller.connection.pause_writing()
        streams = [caller.ask() for _ in range(3)]
        await asyncio.sleep(0.01)
        kinds = [kind for kind, *_ in h2_frames(caller.transport.written)]
        assert frames.DATA not in kinds
        caller.connection.resume_writing()
        await asyncio.sleep(0.01)
        order = [s for k, s, _ in h2_frames(caller.transport.written) if k == frames.DATA]
        # No stream waits until another one is through.
        assert set(order[: len(order) // 2]) == set(streams)
        await caller.hear()
        assert [len(caller.data(s)) for s in streams] == [(3 << 20) + 5] * 3
        caller.connection.abort()

    virtual_time.run(main())


def test_a_reset_cancels_its_call_and_no_other() -> None:
    async def main() -> None:
        cancelled: list[str] = []

        async def service(call: Call) -> Answer:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                cancelled.append(call.request_id)
                raise
            return Answer(b"", V1, Kind.PRIMARY)

        caller = Caller(service)
        first = caller.begin(("modelyard-request-id", "first"))
        caller.h2.send_data(first, framed(), end_stream=True)
        second = caller.ask()
        await caller.hear()
        caller.h2.reset_stream(first, Code.CANCEL)
        caller.flush()
        await asyncio.sleep(0.1)
        assert cancelled == ["first"]
        assert list(caller.connection.streams) == [second]
        caller.connection.connection_lost(None)
        await asyncio.sleep(0.1)
        assert len(cancelled) == 2
        assert caller.left == [caller.connection]

    virtual_time.run(main())


def test_a_deadline_stands_over_a_request_that_does_not_end() -> None:
    async def main() -> None:
        caller = Caller(answering())
        stream = caller.begin(("grpc-timeout", "100m"))
        caller.h2.send_data(stream, framed()[:7])
        caller.flush()
        await caller.hear()
        assert caller.status(stream) is None
        await asyncio.sleep(0.2)
        await caller.hear()
        assert caller.status(stream) == "4"
        caller.connection.abort()

    virtual_time.run(main())


def test_a_silent_caller_is_asked_and_then_gone() -> None:
    async def main() -> None:
        caller = Caller(answering())
        await caller.hear()
        await asyncio.sleep(module._QUIET + 1)
        assert frames.PING in [kind for kind, *_ in h2_frames(caller.transport.written)]
        await caller.hear()  # which answers
        await asyncio.sleep(module._QUIET)
        assert not caller.transport.closed
        await asyncio.sleep(module._QUIET + module._SILENCE)
        assert caller.transport.aborted

    virtual_time.run(main())


def test_who_is_asked_to_go_may_end_what_is_under_way() -> None:
    async def main() -> None:
        caller = Caller(answering())
        held = caller.begin()
        caller.h2.send_data(held, framed()[:7])
        caller.flush()
        await caller.hear()
        caller.connection.leave()
        # On its way before the caller heard of it.
        late = caller.ask()
        await asyncio.sleep(module.GOING + 0.1)
        await caller.hear()
        assert caller.status(late) == "0"
        assert caller.goaway.last_stream_id == late
        caller.say(frames.head(len(framed()[7:]), frames.DATA, 1, held) + framed()[7:])
        await asyncio.sleep(0.1)
        sent = h2_frames(caller.transport.written)
        assert [(k, s) for k, s, _ in sent][-3:] == [(1, held), (0, held), (1, held)]
        assert caller.transport.closed

    virtual_time.run(main())


def test_a_stream_of_inference_goes_both_ways() -> None:
    async def main() -> None:
        caller = Caller(answering())
        stream = caller.begin(path=STREAM)
        for _ in range(3):
            caller.h2.send_data(stream, framed())
            caller.flush()
            await caller.hear()
        assert len(caller.of(h2.events.DataReceived, stream)) == 3
        assert caller.status(stream) is None
        caller.h2.end_stream(stream)
        caller.flush()
        await caller.hear()
        assert caller.status(stream) == "0"
        caller.connection.abort()

    virtual_time.run(main())


def test_a_stream_that_ends_before_its_caller_does_leaves_nobody_waiting() -> None:
    async def main() -> None:
        caller = Caller(answering())
        late = caller.begin(("grpc-timeout", "100m"), path=STREAM)
        wrong = caller.begin(path=STREAM)
        caller.h2.send_data(wrong, b"\x07\x00\x00\x00\x00")
        caller.flush()
        await asyncio.sleep(0.2)
        await caller.hear()
        assert (caller.status(late), caller.status(wrong)) == ("4", "13")
        # Whoever runs this sees to it that no task is left.

    virtual_time.run(main())


BLOCK = hpack.Encoder().encode([(k.encode(), v.encode()) for k, v in HEADERS])
OPEN = frames.head(len(BLOCK), frames.HEADERS, 4, 1) + BLOCK
FAULTS: dict[str, tuple[bytes, Code]] = {
    "a frame too large": (frames.head(1 << 20, 0, 0, 1), Code.FRAME_SIZE_ERROR),
    "data of no stream": (frames.head(0, 0, 0, 1), Code.PROTOCOL_ERROR),
    "data of the connection": (frames.head(0, 0, 0, 0), Code.PROTOCOL_ERROR),
    "headers of the connection": (frames.head(0, 1, 4, 0), Code.PROTOCOL_ERROR),
    "a stream of ours": (frames.head(len(BLOCK), 1, 4, 2) + BLOCK, Code.PROTOCOL_ERROR),
    "headers that are none": (frames.head(2, 1, 4, 1) + b"\xff\xff", Code.COMPRESSION_ERROR),
    "headers cut by others": (
        frames.head(0, 1, 0, 1) + frames.head(0, 0, 0, 1),
        Code.PROTOCOL_ERROR,
    ),
    "continuation of nothing": (frames.head(0, 9, 4, 1), Code.PROTOCOL_ERROR),
    "endless headers": (
        frames.head(0, 1, 0, 1) + (frames.head(16_000, 9, 0, 1) + bytes(16_000)) * 5,
        Code.ENHANCE_YOUR_CALM,
    ),
    "endless continuations": (
        frames.head(0, 1, 0, 1) + frames.head(0, 9, 0, 1) * 1_002,
        Code.ENHANCE_YOUR_CALM,
    ),
    "data that carries nothing": (OPEN + frames.head(0, 0, 0, 1) * 1_002, Code.ENHANCE_YOUR_CALM),
    "settings of a stream": (frames.head(0, 4, 0, 1), Code.PROTOCOL_ERROR),
    "settings cut short": (frames.head(5, 4, 0, 0) + bytes(5), Code.FRAME_SIZE_ERROR),
    "a window too wide": (frames.settings({4: 1 << 31}), Code.FLOW_CONTROL_ERROR),
    "frames too small": (frames.settings({5: 1}), Code.PROTOCOL_ERROR),
    "an update of nothing": (frames.window_update(0, 0), Code.FLOW_CONTROL_ERROR),
    "an update too wide": (frames.window_update(0, (1 << 31) - 1), Code.FLOW_CONTROL_ERROR),
    "an update cut short": (frames.head(3, 8, 0, 0) + bytes(3), Code.FRAME_SIZE_ERROR),
    "an update of no stream": (frames.window_update(7, 1), Code.PROTOCOL_ERROR),
    "a reset of no stream": (frames.reset(7, Code.CANCEL), Code.PROTOCOL_ERROR),
    "a short ping": (frames.head(7, 6, 0, 0) + bytes(7), Code.FRAME_SIZE_ERROR),
    "a promise": (frames.head(4, 5, 4, 1) + bytes(4), Code.PROTOCOL_ERROR),
    "goaway of a stream": (frames.head(8, 7, 0, 1) + bytes(8), Code.PROTOCOL_ERROR),
    "a short priority": (frames.head(4, 2, 0, 1) + bytes(4), Code.FRAME_SIZE_ERROR),
    "padding without a size": (OPEN + frames.head(0, 0, 8, 1), Code.FRAME_SIZE_ERROR),
    "more padding than frame": (OPEN + frames.head(2, 0, 8, 1) + b"\x09x", Code.PROTOCOL_ERROR),
    "more than the window": (
        OPEN + (frames.head(1 << 18, 0, 0, 1) + bytes(1 << 18)) * 80,
        Code.FLOW_CONTROL_ERROR,
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_breaks_the_protocol_ends_the_connection(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, code = FAULTS[case]
    if case == "more than the window":
        # As it is, what is taken is asked for anew before the window is used up.
        monkeypatch.setattr(module, "_WINDOW", 1 << 18)

    async def main() -> None:
        caller = Caller(answering())
        await caller.hear()
        if case == "more than the window":
            caller.connection._taken = -(1 << 30)
        caller.say(sent)
        kind, _, body = h2_frames(caller.transport.written)[-1]
        assert (kind, struct.unpack(">II", body[:8])[1]) == (frames.GOAWAY, code)
        assert caller.transport.closed
        assert not caller.connection.streams
        # Whatever else comes is not looked at.
        caller.say(b"\x00" * 100)

    virtual_time.run(main())


def test_no_settings_at_the_beginning() -> None:
    async def main() -> None:
        caller = Caller(answering())
        fresh = Connection(lambda *_: None, lambda _: None, LIMIT, caller.connection._clock)
        transport = Transport()
        fresh.connection_made(transport)
        fresh.data_received(frames.ping(bytes(8)))
        assert transport.closed
        caller.connection.abort()

    virtual_time.run(main())


STREAM_FAULTS: dict[str, tuple[bytes, Code]] = {
    "a window too wide": (frames.window_update(1, (1 << 31) - 1), Code.FLOW_CONTROL_ERROR),
    "an update of nothing": (frames.window_update(1, 0), Code.FLOW_CONTROL_ERROR),
    "trailers that do not end": (frames.head(1, 1, 4, 1) + b"\x88", Code.PROTOCOL_ERROR),
    "more than its window": (
        (frames.head(1 << 18, 0, 0, 1) + bytes(1 << 18)) * (WINDOW // (1 << 18) + 1),
        Code.FLOW_CONTROL_ERROR,
    ),
}


@pytest.mark.parametrize("case", STREAM_FAULTS)
def test_what_breaks_a_stream_ends_that_one(case: str) -> None:
    sent, code = STREAM_FAULTS[case]

    async def main() -> None:
        caller = Caller(answering())
        await caller.hear()
        # One that is not answered, so that its windows stay as they are.
        stream = caller.begin(path="/v2/models/m/infer" if "more" in case else INFER)
        caller.flush()
        if "more" in case:
            task = caller.connection.streams[stream].task
            assert task is not None
            task.cancel()
        caller.say(sent)
        resets = [b for k, s, b in h2_frames(caller.transport.written + held(caller)) if k == 3]
        assert struct.pack(">I", code) in resets
        assert not caller.transport.closed
        caller.connection.abort()

    virtual_time.run(main())


def held(caller: Caller) -> bytes:
    return b"".join(caller.connection._held)


def test_malformed_headers_reset_their_stream() -> None:
    async def main() -> None:
        caller = Caller(answering())
        bad = caller.begin(("Upper", "1"), end=True)
        caller.flush()
        good = caller.ask()
        await caller.hear()
        (reset,) = caller.of(h2.events.StreamReset, bad)
        assert reset.error_code == Code.PROTOCOL_ERROR
        assert caller.status(good) == "0"
        caller.connection.abort()

    virtual_time.run(main())


def test_more_streams_than_there_may_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STREAMS", 2)

    async def main() -> None:
        caller = Caller(answering())
        streams = [caller.begin() for _ in range(3)]
        caller.flush()
        await caller.hear()
        (reset,) = caller.of(h2.events.StreamReset, streams[2])
        assert reset.error_code == Code.REFUSED_STREAM
        for stream in streams[:2]:
            caller.h2.send_data(stream, framed(), end_stream=True)
        caller.flush()
        await caller.hear()
        assert [caller.status(s) for s in streams[:2]] == ["0", "0"]
        caller.connection.abort()

    virtual_time.run(main())


def test_who_reads_nothing_and_asks_on_is_shown_the_door() -> None:
    async def main() -> None:
        caller = Caller(answering())
        await caller.hear()
        caller.transport.waiting = 5 << 20
        caller.say(frames.ping(bytes(8)))
        kind, _, body = h2_frames(caller.transport.written)[-1]
        assert (kind, struct.unpack(">II", body[:8])[1]) == (frames.GOAWAY, Code.ENHANCE_YOUR_CALM)

    virtual_time.run(main())


def test_too_many_resets_are_no_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RESETS", 10)

    async def main() -> None:
        caller = Caller(answering())
        for _ in range(12):
            stream = caller.begin()
            caller.h2.reset_stream(stream)
        caller.flush()
        assert caller.transport.closed

    virtual_time.run(main())
