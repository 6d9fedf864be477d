"""The wire format: every frame comes back however it is cut, and what is none is refused."""

import struct
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard import frames
from modelyard.frames import Frame, Hello, Malformed, Parser

LARGEST = 1 << 20
HEAD = struct.Struct("<IBBHQIIQ")


def parse(stream: bytes, cuts: Iterable[int] = (), largest: int = LARGEST) -> list[Frame]:
    """The frames of a stream that arrives cut at these places."""
    parser, found, at = Parser(largest), [], 0
    for cut in (*cuts, len(stream)):
        while at < cut:
            space = parser.space()
            count = min(len(space), cut - at)
            assert count, "a parser always has space"
            space[:count] = stream[at : at + count]
            at += count
            found += list(parser.received(count))
    return found


def head(
    size: int = 0,
    kind: int = frames.CANCEL,
    flags: int = 0,
    code: int = 0,
    call: int = 1,
    text: int = 0,
    words: int = 0,
    number: int = 0,
) -> bytes:
    return HEAD.pack(size, kind, flags, code, call, text, words, number)


EVERY = (
    frames.hello(Hello(LARGEST, 10, 1 << 30, who="me"))
    + frames.request(1, "ModelInfer", frames.encode_metadata((("k", "v"),)), 5_000, 3)
    + b"abc"
    + frames.answer(1, 2)
    + b"\x00\xff"
    + frames.status(2, 5, "nö", frames.encode_metadata((("x-bin", b"\x00"),)))
    + frames.cancel(3)
    + frames.ping(7)
    + frames.pong(7)
    + frames.drain("so")
    + frames.close("why")
)
KINDS = [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_every_frame_comes_back() -> None:
    hello, request, answer, status, cancel, ping, pong, drain, close = parse(EVERY)
    assert frames.read_hello(hello) == Hello(LARGEST, 10, 1 << 30, who="me")
    assert request == (2, 0, 1, 5_000, b"ModelInfer", b"\x01\x00\x01\x00\x00\x00kv", b"abc")
    assert (answer.call, answer.payload) == (1, b"\x00\xff")
    assert (status.call, status.code, status.text.decode()) == (2, 5, "nö")
    assert frames.decode_metadata(status.metadata) == (("x-bin", b"\x00"),)
    assert (cancel.call, ping.number, pong.number) == (3, 7, 7)
    assert (drain.text, close.text) == (b"so", b"why")


def test_wherever_it_is_cut() -> None:
    whole = parse(EVERY)
    assert [f.type for f in whole] == KINDS
    for cut in range(len(EVERY)):
        assert parse(EVERY, [cut]) == whole
    assert parse(EVERY, range(len(EVERY))) == whole


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 262_144, 262_145, 900_000])
def test_payloads_of_every_size(size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    payload = payload[:size]
    words = frames.encode_metadata((("k", "v" * 50_000),))
    one = frames.request(1, "M", words, 0, size) + payload
    stream = one + frames.cancel(1) + frames.request(2, "M", words, 0, size) + payload
    for cuts in ([], range(0, len(stream), 70_001), [20, 40, 50_050, 50_090, 120_000]):
        first, cancelled, second = parse(stream, sorted(c for c in cuts if c < len(stream)))
        assert first.payload == second.payload == payload
        assert (first.call, cancelled.call, second.call) == (1, 1, 2)
        assert first.metadata == words


def test_a_large_payload_is_memory_of_its_own() -> None:
    stream = frames.answer(1, 300_000) + bytes(300_000)
    parser = Parser(LARGEST)
    parser.space()[:100] = stream[:100]
    assert not list(parser.received(100))
    parser.space()[:] = stream[100:]
    (frame,) = parser.received(len(stream) - 100)
    assert type(frame.payload) is bytearray
    # A view that somebody still held would forbid it, and keep the memory.
    frame.payload.clear()


words = st.dictionaries(
    st.text("abcdefghij-", min_size=1, max_size=12).filter(lambda k: not k.endswith("-bin")),
    st.text(max_size=40),
    max_size=6,
)
raw = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=8).map(lambda k: k + "-bin"),
    st.binary(max_size=60),
    max_size=3,
)


@given(words, raw)
def test_metadata_come_back(texts: dict[str, str], blobs: dict[str, bytes]) -> None:
    pairs = (*texts.items(), *blobs.items())
    assert frames.decode_metadata(frames.encode_metadata(pairs)) == pairs


def test_metadata_of_the_wrong_kind_arrive_as_their_key_says() -> None:
    block = frames.encode_metadata((("k", b"v\xff"), ("k-bin", "v")))
    assert frames.decode_metadata(block) == (("k", "v�"), ("k-bin", b"v"))


@given(st.binary(max_size=200))
def test_metadata_that_are_none_are_malformed(block: bytes) -> None:
    try:
        pairs = frames.decode_metadata(block)
    except Malformed:
        return
    assert sum(len(k) for k, _ in pairs) <= len(block)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 2**64 - 1),
            st.text(max_size=20),
            words,
            st.integers(0, 2**64 - 1),
            st.binary(max_size=2000) | st.integers(60_000, 200_000).map(bytes),
        ),
        max_size=6,
    ),
    st.lists(st.integers(0, 400_000), max_size=8),
)
@settings(deadline=None)
def test_requests_come_back_however_they_are_cut(
    requests: list[tuple[int, str, dict[str, str], int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(
        frames.request(call, method, frames.encode_metadata(pairs.items()), left, len(payload))
        + payload
        for call, method, pairs, left, payload in requests
    )
    found = parse(stream, sorted(c for c in cuts if c < len(stream)))
    assert [
        (f.call, f.text.decode(), dict(frames.decode_metadata(f.metadata)), f.number, f.payload)
        for f in found
    ] == requests


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (head(kind=0), "unknown type 0"),
        (head(kind=10), "unknown type 10"),
        (head(flags=1), "CANCEL has the unknown flags 0x01"),
        (head(size=3, text=2, words=2), "4 bytes of text and metadata in a body of 3"),
        (head(size=1 << 20, text=1 << 17), "131072 bytes of text and metadata, 65536 at most"),
        (head(size=2**32 - 1, kind=frames.REQUEST, text=1), "payload of 4294967294 bytes, 1048576"),
        (head(size=1), "CANCEL has a payload"),
        (head(size=1, kind=frames.STATUS), "STATUS has a payload"),
        (head(call=0), "CANCEL of call 0"),
        (head(kind=frames.REQUEST, call=0), "REQUEST of call 0"),
        (head(kind=frames.PING, call=3), "PING of call 3"),
        (head(kind=frames.HELLO, call=3), "HELLO of call 3"),
        (head(size=70_000, kind=frames.HELLO, call=0), "HELLO has a payload of 70000 bytes"),
    ],
)
def test_what_is_no_frame_is_refused_by_its_head(sent: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        parse(frames.ping(1) + sent)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (frames.ping(1), "PING comes before HELLO"),
        (head(size=4, kind=1, code=1, call=0, text=4) + b"http", "another protocol"),
        (frames.hello(Hello(1, version=2)), "version 2 is not spoken here, 1 is"),
        (
            head(size=10, kind=1, code=1, call=0, text=9) + b"modelyard!",
            "HELLO has a payload of 1 bytes, not 16",
        ),
    ],
)
def test_a_greeting_that_is_none(frame: bytes, why: str) -> None:
    (parsed,) = parse(frame)
    with pytest.raises(Malformed, match=why):
        frames.read_hello(parsed)


def test_a_status_fits_its_frame() -> None:
    huge = frames.encode_metadata((("grpc-status-details-bin", bytes(60_000)),))
    (cut,) = parse(frames.status(1, 13, "é" * 50_000, huge))
    assert len(cut.text) == 32_768
    assert cut.metadata == b""
    some = frames.encode_metadata((("grpc-status-details-bin", bytes(600)),))
    (kept,) = parse(frames.status(1, 13, "é" * 50_000, some))
    assert kept.metadata == some


def test_more_time_than_there_is() -> None:
    (frame,) = parse(frames.request(1, "M", b"", 1 << 70, 0))
    assert frame.number == 2**64 - 1


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_mutations_give_frames_or_are_malformed(data: st.DataObject) -> None:
    stream = bytearray(EVERY)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(stream) - 1))
        match data.draw(st.integers(0, 2)):
            case 0:
                stream[at] = data.draw(st.integers(0, 255))
            case 1:
                del stream[at : at + data.draw(st.integers(1, 40))]
            case _:
                stream[at:at] = data.draw(st.binary(max_size=40))
        if not stream:
            return
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    whole: object
    cut: object
    try:
        whole = parse(bytes(stream))
    except Malformed as fault:
        whole = str(fault)
    try:
        cut = parse(bytes(stream), cuts)
    except Malformed as fault:
        cut = str(fault)
    assert whole == cut
