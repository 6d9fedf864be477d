"""gRPC's messages, timeouts, metadata and statuses, as bytes."""

import gzip
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fronts import wire
from modelyard.errors import Internal, InvalidArgument, MessageTooLarge, Unimplemented


def framed(payload: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(payload)) + payload


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 50))
def test_messages_come_whole_however_they_are_cut(payloads: list[bytes], size: int) -> None:
    data = b"".join(map(wire.framed, payloads))
    messages = wire.Messages(64)
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    assert [m for part in parts for m in messages.feed(part)] == payloads
    messages.end()


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_an_error_of_ours(data: bytes) -> None:
    messages = wire.Messages(64, b"gzip")
    try:
        for message in messages.feed(data):
            assert len(message) <= 64
        messages.end()
    except (Internal, MessageTooLarge):
        pass


@pytest.mark.parametrize(
    ("encoding", "compress"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)]
)
def test_a_compressed_message(encoding, compress) -> None:
    messages = wire.Messages(1000, encoding)
    assert messages.feed(framed(compress(b"abc" * 100), 1)) == [b"abc" * 100]
    # Whether a message is compressed is its own.
    assert messages.feed(framed(b"plain")) == [b"plain"]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (framed(b"x", 2), Internal),
        (framed(b"x", 1), Internal),
        (struct.pack(">BI", 0, 101), MessageTooLarge),
        (framed(b"x" * 101), MessageTooLarge),
    ],
)
def test_a_wrong_message(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        wire.Messages(100).feed(data)


def test_a_message_at_the_limit_passes() -> None:
    assert wire.Messages(100).feed(framed(b"x" * 100)) == [b"x" * 100]


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (gzip.compress(bytes(101)), MessageTooLarge),
        (gzip.compress(bytes(50))[:-4], Internal),
        (b"no gzip at all", Internal),
    ],
    # By name: gzip writes the time, and each worker would collect another test.
    ids=["too large", "cut", "not compressed"],
)
def test_a_wrong_compressed_message(sent: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        wire.Messages(100, b"gzip").feed(framed(sent, 1))


def test_an_end_inside_a_message() -> None:
    messages = wire.Messages(100)
    assert messages.feed(framed(b"abc")[:-1]) == []
    with pytest.raises(Internal, match="inside a message"):
        messages.end()


def test_an_encoding_that_nobody_knows() -> None:
    with pytest.raises(Unimplemented, match="identity, deflate, gzip"):
        wire.Messages(100, b"br")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"99999999S", 99999999.0),
        (b"250m", 0.25),
        (b"50u", 5e-5),
        (b"7n", 7e-9),
        (b"0n", 0.0),
    ],
)
def test_a_timeout(text: bytes, expected: float) -> None:
    assert wire.seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", [b"", b"1", b"S", b"-1S", b"1.5S", b"123456789S", b"1s", b"1S "])
def test_a_wrong_timeout(text: bytes) -> None:
    with pytest.raises(Internal, match="grpc-timeout"):
        wire.seconds(text)


def test_metadata_comes_without_what_is_http_or_grpc() -> None:
    headers = [
        (b"host", b"h"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"grpc-accept-encoding", b"gzip"),
        (b"k", b"1"),
        (b"k", b"2"),
        (b"a-bin", b"AAEC"),
        (b"b-bin", b"/w,/w==, AA"),
    ]
    assert wire.metadata(headers) == (
        ("k", "1"),
        ("k", "2"),
        ("a-bin", b"\x00\x01\x02"),
        ("b-bin", b"\xff"),
        ("b-bin", b"\xff"),
        ("b-bin", b"\x00"),
    )


# What HTTP bears, and the next hop of gRPC would not.
NOT_GRPC = [(b"a", b"1\t2"), (b"a", b"\x7f"), (b"a~b", b"1"), (b"A", b"1"), (b"a b", b"1")]


@pytest.mark.parametrize("header", [(b"a-bin", b"*"), (b"a-bin", b"A"), (b"a", b"\xff"), *NOT_GRPC])
def test_wrong_metadata(header: wire.Header) -> None:
    with pytest.raises(InvalidArgument):
        wire.metadata([header])


@given(st.lists(st.binary(max_size=20)))
def test_binary_metadata_comes_back(values: list[bytes]) -> None:
    sent = tuple(("x-bin", value) for value in values)
    assert wire.metadata(wire.headers(sent)) == sent


@given(st.text(max_size=50))
def test_a_message_is_printable_and_comes_back(text: str) -> None:
    from urllib.parse import unquote

    headers = dict(wire.status(5, text))
    assert headers[b"grpc-status"] == b"5"
    told = headers.get(b"grpc-message", b"").decode("ascii")
    assert told.isprintable()
    assert unquote(told) == text.encode("utf-8", "replace").decode()


def test_what_needs_no_escape_has_none() -> None:
    assert dict(wire.status(5, "Models 'a/b' [1, 2]: ~100%"))[b"grpc-message"] == (
        b"Models 'a/b' [1, 2]: ~100%25"
    )
