"""Headers as they travel: read once, remembered while they say the same, refused where they lie."""

from collections.abc import Callable

import hpack
import pytest

from gateway.fronts.http2 import fields
from gateway.fronts.http2.fields import Head, Heads, Malformed, head_of
from gateway.fronts.http2.frames import Broken, Code
from gateway.fronts.paths import INFER

CALL = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", INFER.encode()),
    (b":authority", b"here"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]


def replaced(**given: bytes) -> list[tuple[bytes, bytes]]:
    held = dict(CALL)
    for name, value in given.items():
        held[{"method": b":method", "path": b":path", "scheme": b":scheme"}[name]] = value
    return [(k, v) for k, v in held.items() if v]


def test_a_hot_call_is_read_whole() -> None:
    sent = [(b"grpc-timeout", b"250m"), (b"modelyard-request-id", b"mine"), (b"x-user", b"anna")]
    head = head_of([*CALL, *sent, (b"user-agent", b"me")])
    assert (head.hot, head.grpc, head.method, head.path) == (True, True, "POST", INFER)
    assert (head.timeout, head.request_id) == (0.25, "mine")
    # What belongs to this hop stays here.
    assert head.metadata == (("x-user", "anna"),)


def test_what_is_not_hot_keeps_its_headers() -> None:
    head = head_of([*replaced(method=b"GET", path=b"/v2/models/m?x=1"), (b"accept", b"*/*")])
    assert (head.hot, head.path, head.metadata) == (False, "/v2/models/m", ())
    assert (b"accept", b"*/*") in head.headers


def test_a_path_that_is_no_text_has_no_name() -> None:
    assert head_of(replaced(path=b"/\xff\xfe")).path == ""
    assert head_of(replaced(path=b"no-slash")).path == ""


@pytest.mark.parametrize(
    "sent",
    [
        (b"grpc-timeout", b"soon"),
        (b"x-bin", b"\xff!"),
        (b"x", b"\xc3\xa9"),
        (b"grpc-encoding", b"z"),
    ],
)
def test_what_is_wrong_with_a_call_is_told_with_its_answer(sent: tuple[bytes, bytes]) -> None:
    assert head_of([*CALL, sent]).fault is not None


@pytest.mark.parametrize(
    "headers",
    [
        replaced(path=b""),
        replaced(method=b""),
        replaced(scheme=b""),
        [*CALL, (b":path", b"/twice")],
        [*CALL, (b":status", b"200")],
        [*CALL, (b"x", b"1"), (b":late", b"1")],
        [*CALL, (b"Upper", b"1")],
        [*CALL, (b"", b"1")],
        [*CALL, (b"connection", b"close")],
        [*CALL, (b"x", b"a\r\nb: c")],
        [*CALL, (b"x", b"\x00")],
    ],
)
def test_what_is_no_request_is_none(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Malformed):
        head_of(headers)


def test_a_block_is_remembered_for_as_long_as_it_says_the_same() -> None:
    encoder, heads = hpack.Encoder(), Heads()
    first = heads.read(encoder.encode([*CALL, (b"x-user", b"anna")]))
    block = encoder.encode([*CALL, (b"x-user", b"anna")])
    assert heads.read(block) == first
    assert heads.read(block) is heads.read(block)
    # Another entry of the table moves all others: the same bytes are another request now.
    other = heads.read(encoder.encode([*CALL, (b"x-user", b"berta")]))
    assert other.metadata == (("x-user", "berta"),)
    reference = hpack.Decoder()
    replayed = [[*CALL, (b"x-user", b"anna")], [*CALL, (b"x-user", b"berta")]]
    again = hpack.Encoder()
    for headers in replayed:
        reference.decode(again.encode(headers), raw=True)
    said = [(bytes(k), bytes(v)) for k, v in reference.decode(block, raw=True)]
    assert _or_none(lambda: heads.read(block)) == _or_none(lambda: head_of(said)) != first


def test_no_caller_makes_us_remember_much() -> None:
    encoder, heads = hpack.Encoder(), Heads()
    sent = [*CALL, (b"x", b"v" * 300)]
    heads.read(encoder.encode(sent))
    block, latest = encoder.encode(sent), b"\xbe"
    for times in range(120):
        head = heads.read(block + latest * times)
        assert len(head.metadata) == times + 1
        assert len(heads._known) <= fields._KNOWN
    said = [sum(len(k) + len(v) for k, v in head.headers) for head in heads._known.values()]
    assert all(size <= fields._SAYS for size in said)


def _or_none(read: Callable[[], Head]) -> Head | None:
    try:
        return read()
    except Malformed:
        return None


def test_blocks_that_cannot_be_unpacked_end_the_connection() -> None:
    with pytest.raises(Broken) as caught:
        Heads().read(b"\xff\xff\xff\xff\xff\xff")
    assert caught.value.code is Code.COMPRESSION_ERROR
    large = hpack.Encoder().encode([*CALL, (b"x", b"a" * fields.MOST)], huffman=False)
    with pytest.raises(Broken) as caught:
        Heads().read(large)
    assert caught.value.code is Code.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 16_000, 70_000])
def test_a_block_is_what_every_decoder_reads(size: int) -> None:
    sent = [(b"grpc-status", b"0"), (b"x-" + b"n" * (size % 300), b"v" * size)]
    decoder = hpack.Decoder(max_header_list_size=1 << 20)
    block = fields.status(200) + fields.status(415) + fields.block(sent)
    got = [(bytes(k), bytes(v)) for k, v in decoder.decode(block, raw=True)]
    assert got == [(b":status", b"200"), (b":status", b"415"), *sent]
    assert not decoder.header_table.dynamic_entries
