"""HTTP/1.1 on the front's port: one request after the other, whatever pieces it comes in."""

import asyncio
import json
from typing import Any

from gateway.fronts.http2.http1 import Http1
from tests.kit import virtual_time
from tests.unit.fronts.test_http2_connection import Transport


class Pausable(Transport):
    """Knows whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closed


async def echo(scope: Any, headers: Any, receive: Any, send: Any) -> None:
    """Tells what it was asked."""
    body, more = b"", True
    while more:
        event = await receive()
        body, more = body + event["body"], event["more_body"]
    told = json.dumps([scope["method"], scope["path"], body.decode()]).encode()
    length = [(b"content-length", b"%d" % len(told))]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": told})


def made(answer: Any = echo) -> tuple[Http1, Pausable, list[Http1]]:
    left: list[Http1] = []
    http1, transport = Http1(answer, left.append), Pausable()
    http1.connection_made(transport)
    return http1, transport, left


def bodies(written: bytes) -> list[Any]:
    return [json.loads(part) for part in written.splitlines() if part.startswith(b"[")]


ONE = b"POST /v2/a?x=1 HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc"
TWO = b"GET /v2/b HTTP/1.1\r\nhost: h\r\n\r\n"
CHUNKED = (
    b"POST /v2/c HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
    b"2\r\nxy\r\n1\r\nz\r\n0\r\n\r\n"
)


def test_requests_are_answered_in_their_order_in_any_pieces() -> None:
    async def main() -> None:
        sent = ONE + TWO + CHUNKED
        for step in (1, 7, 50, len(sent)):
            http1, transport, _ = made()
            for at in range(0, len(sent), step):
                http1.data_received(sent[at : at + step])
                await asyncio.sleep(0.001)
            written = transport.written.replace(b"[", b"\n[").replace(b"]", b"]\n")
            assert bodies(written) == [
                ["POST", "/v2/a", "abc"],
                ["GET", "/v2/b", ""],
                ["POST", "/v2/c", "xyz"],
            ]
            assert not transport.closed
            http1.connection_lost(None)

    virtual_time.run(main())


def test_a_body_of_which_no_more_comes_is_not_waited_for_for_ever() -> None:
    async def main() -> None:
        http1, transport, left = made()
        http1.data_received(ONE[:-2])
        await asyncio.sleep(59)
        # Slow is not late.
        http1.data_received(ONE[-2:-1])
        await asyncio.sleep(59)
        assert not transport.closed
        await asyncio.sleep(2)
        assert transport.written.startswith(b"HTTP/1.1 408 ")
        assert transport.closed
        http1.connection_lost(None)
        await asyncio.sleep(0)
        assert left == [http1]

    virtual_time.run(main())


def test_who_waits_to_be_told_to_go_on_is_told() -> None:
    async def main() -> None:
        http1, transport, _ = made()
        head, _, body = ONE.partition(b"\r\n\r\n")
        http1.data_received(head + b"\r\nexpect: 100-continue\r\n\r\n")
        await asyncio.sleep(0.001)
        assert transport.written.startswith(b"HTTP/1.1 100 ")
        http1.data_received(body)
        await asyncio.sleep(0.001)
        assert b"HTTP/1.1 200 " in transport.written
        http1.connection_lost(None)

    virtual_time.run(main())


def test_what_is_no_http_is_refused() -> None:
    async def main() -> None:
        for sent in (b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"):
            http1, transport, _ = made()
            http1.data_received(sent)
            assert transport.written.startswith(b"HTTP/1.1 400 ")
            assert transport.closed
            http1.connection_lost(None)

    virtual_time.run(main())


def test_a_body_that_nobody_takes_is_not_read_on() -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def slow(scope: Any, headers: Any, receive: Any, send: Any) -> None:
            await go_on.wait()
            await echo(scope, headers, receive, send)

        http1, transport, _ = made(slow)
        size = 3 << 20
        http1.data_received(b"POST /v2/a HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % size)
        await asyncio.sleep(0.001)
        http1.data_received(b"a" * (2 << 20))
        assert transport.paused
        go_on.set()
        await asyncio.sleep(0.001)
        assert not transport.paused
        http1.data_received(b"a" * (1 << 20))
        await asyncio.sleep(0.001)
        assert b"HTTP/1.1 200 " in transport.written
        http1.connection_lost(None)

    virtual_time.run(main())


def test_a_caller_that_is_gone_cancels_its_request() -> None:
    async def main() -> None:
        cancelled = []

        async def endless(*_: Any) -> None:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        http1, _, left = made(endless)
        http1.data_received(ONE)
        await asyncio.sleep(0.001)
        http1.connection_lost(None)
        await asyncio.sleep(0.001)
        assert (cancelled, left) == ([True], [http1])

    virtual_time.run(main())


def test_who_is_asked_to_go_has_its_answer_first() -> None:
    async def main() -> None:
        http1, transport, _ = made()
        head, body = ONE[:-3], ONE[-3:]
        http1.data_received(head)
        await asyncio.sleep(0.001)
        http1.leave()
        assert not transport.closed
        http1.data_received(body)
        await asyncio.sleep(0.001)
        assert b"connection: close" in transport.written.lower()
        assert transport.closed
        idle, transport, _ = made()
        idle.leave()
        assert transport.closed
        for one in (http1, idle):
            one.connection_lost(None)

    virtual_time.run(main())


def test_a_connection_that_asks_nothing_ends() -> None:
    async def main() -> None:
        http1, transport, _ = made()
        await asyncio.sleep(61)
        assert transport.closed
        http1.connection_lost(None)

    virtual_time.run(main())
