"""The ASGI application, told what pyvoy would tell it."""

import asyncio
from typing import Any

import grpc
import pytest

from gateway.call import Answer, Call
from gateway.fronts import wire
from gateway.fronts.envoy.application import Application, Resets
from gateway.fronts.envoy.config import GIVEN_ID
from gateway.fronts.paths import INFER, STREAM
from gateway.fronts.rest import Rest
from gateway.plan import Kind
from modelyard.errors import ModelNotFound
from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.names import VersionName

V1 = VersionName("m", 1)
REQUEST = pb.ModelInferRequest(model_name="m", id="7").SerializeToString()


class Gone(OSError):
    """As pyvoy's word for a caller that is gone."""


class Exchange:
    """One request and what is sent back."""

    def __init__(self, *bodies: bytes, path: str = INFER, stream: bytes = b"s1", **headers: bytes):
        sent = [(b"content-type", b"application/grpc"), (b"x-request-id", stream)]
        sent += [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
        self.scope: dict[str, Any] = {"type": "http", "path": path, "headers": sent}
        self._bodies = list(bodies)
        self.events: list[dict[str, Any]] = []
        self.gone = False

    async def receive(self) -> dict[str, Any]:
        if self.gone:
            return {"type": "http.disconnect"}
        body = self._bodies.pop(0) if self._bodies else b""
        return {"type": "http.request", "body": body, "more_body": bool(self._bodies)}

    async def send(self, event: dict[str, Any]) -> None:
        if self.gone:
            raise Gone
        self.events.append(event)

    def messages(self) -> list[bytes]:
        parsed = wire.Messages(1 << 20)
        bodies = [e["body"] for e in self.events if e["type"] == "http.response.body"]
        return [message for body in bodies for message in parsed.feed(body)]

    def told(self) -> dict[bytes, bytes]:
        """The status and what goes with it, from trailers or, without a body, headers."""
        last = [e for e in self.events if "headers" in e][-1]
        return dict(last["headers"])


async def run(service: Any, exchange: Exchange, resets: Resets | None = None) -> Exchange:
    clock = asyncio.get_running_loop().time
    async with grpc.aio.insecure_channel("127.0.0.1:1") as nobody:
        rest = Rest(service, clock, 1 << 20, nobody)
        application = Application(service, clock, 1 << 20, resets or Resets(), rest)
        await application(exchange.scope, exchange.receive, exchange.send)
    return exchange


def answering(seen: list[Call] | None = None) -> Any:
    async def service(call: Call) -> Answer:
        if seen is not None:
            seen.append(call)
        return Answer(b"answer", V1, Kind.PRIMARY)

    return service


async def failing(call: Call) -> Answer:
    raise ModelNotFound("no m")


async def test_an_answer_and_who_gave_it() -> None:
    seen: list[Call] = []
    framed = wire.framed(REQUEST)
    headers = {"x_id": b"a", "y_bin": b"AAE", "grpc_timeout": b"2S", "user_agent": b"me"}
    exchange = await run(answering(seen), Exchange(framed[:4], framed[4:], **headers))
    assert exchange.messages() == [b"answer"]
    assert [e["type"].rpartition(".")[2] for e in exchange.events] == ["start", "body", "trailers"]
    told = exchange.told()
    assert told[b"grpc-status"] == b"0"
    assert told[b"modelyard-served-by"] == b"models/m/versions/1"
    (call,) = seen
    assert call.payload == REQUEST
    assert dict(call.metadata) == {
        "x-id": "a",
        "y-bin": b"\x00\x01",
        "modelyard-request-id": told[b"modelyard-request-id"].decode(),
    }
    assert call.deadline is not None


async def test_the_callers_own_request_id_goes_on_and_envoys_does_not() -> None:
    seen: list[Call] = []
    given = {GIVEN_ID.decode().replace("-", "_"): b"the caller's"}
    await run(answering(seen), Exchange(wire.framed(REQUEST), **given))
    assert dict(seen[0].metadata)["x-request-id"] == "the caller's"
    seen.clear()
    await run(answering(seen), Exchange(wire.framed(REQUEST)))
    assert "x-request-id" not in dict(seen[0].metadata)


async def test_a_failure_is_a_status_without_a_body() -> None:
    exchange = await run(failing, Exchange(wire.framed(REQUEST)))
    assert len(exchange.events) == 2
    assert exchange.events[0].get("trailers") is None
    told = exchange.told()
    assert told[b"grpc-status"] == b"5"
    assert told[b"grpc-status-details-bin"]
    assert told[b"modelyard-request-id"]


async def test_a_strangers_exception_tells_nothing() -> None:
    async def service(call: Call) -> Answer:
        raise ZeroDivisionError("secret")

    told = (await run(service, Exchange(wire.framed(REQUEST)))).told()
    assert told[b"grpc-status"] == b"13"
    assert b"secret" not in told[b"grpc-message"]


@pytest.mark.parametrize(
    ("bodies", "headers", "status"),
    [
        ((b"",), {}, b"13"),
        ((wire.framed(REQUEST) * 2,), {}, b"13"),
        ((wire.framed(REQUEST)[:-1],), {}, b"13"),
        ((wire.framed(REQUEST),), {"grpc_timeout": b"soon"}, b"13"),
        ((wire.framed(REQUEST),), {"grpc_encoding": b"br"}, b"12"),
        ((wire.framed(REQUEST),), {"a_bin": b"*"}, b"3"),
        ((wire.framed(b""),), {}, b"3"),
        ((b"\x00\xff\xff\xff\xff",), {}, b"8"),
    ],
)
async def test_a_wrong_request(bodies, headers, status: bytes) -> None:
    exchange = await run(answering(), Exchange(*bodies, **headers))
    assert exchange.told()[b"grpc-status"] == status


async def test_what_is_no_grpc_is_refused() -> None:
    exchange = Exchange(b"{}")
    exchange.scope["headers"][0] = (b"content-type", b"application/json")
    await run(answering(), exchange)
    assert exchange.events[0]["status"] == 415


async def test_a_caller_that_is_gone_is_told_nothing() -> None:
    exchange = Exchange(wire.framed(REQUEST))
    exchange.gone = True
    await run(answering(), exchange)
    assert exchange.events == []


# Resets


def never(begun: asyncio.Event, cancelled: list[str]) -> Any:
    async def service(call: Call) -> Answer:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(call.model)
            raise
        raise AssertionError

    return service


@pytest.mark.parametrize("path", [INFER, STREAM])
async def test_a_reset_cancels_its_call_and_no_other(path: str) -> None:
    resets, cancelled = Resets(), list[str]()
    begun = [asyncio.Event(), asyncio.Event()]
    tasks = [
        asyncio.create_task(
            run(
                never(begun[at], cancelled),
                Exchange(wire.framed(REQUEST), path=path, stream=b"s%d" % at),
                resets,
            )
        )
        for at in range(2)
    ]
    for event in begun:
        await event.wait()
    # In parts, and among lines of streams that are none of ours.
    resets.feed(b"other\ns")
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    resets.feed(b"0\n")
    assert (await tasks[0]).events == []
    assert cancelled == ["m"]
    assert not tasks[1].done()
    resets.feed(b"s1\n")
    await tasks[1]
    assert cancelled == ["m", "m"]


async def test_a_reset_that_comes_before_its_call() -> None:
    resets, cancelled = Resets(), list[str]()
    resets.feed(b"s1\n")
    task = run(never(asyncio.Event(), cancelled), Exchange(wire.framed(REQUEST)), resets)
    assert (await asyncio.wait_for(task, 10)).events == []


async def test_no_task_ends_as_cancelled() -> None:
    # pyvoy panics where one does.
    resets = Resets()
    resets.feed(b"s1\n")
    early = asyncio.create_task(run(answering(), Exchange(content_type=b"text/html"), resets))
    await asyncio.wait((early,))
    assert not early.cancelled()
    assert (await early).events == []

    class Slow(Exchange):
        sending = asyncio.Event()

        async def send(self, event: dict[str, Any]) -> None:
            self.sending.set()
            await asyncio.Event().wait()

    async def defect(call: Call) -> Answer:
        raise RuntimeError("of ours")

    exchange = Slow(wire.framed(REQUEST), stream=b"s2")
    late = asyncio.create_task(run(defect, exchange, resets))
    await asyncio.wait_for(exchange.sending.wait(), 10)
    resets.feed(b"s2\n")
    await asyncio.wait((late,), timeout=10)
    assert late.done()
    assert not late.cancelled()


async def test_early_resets_are_bounded() -> None:
    resets = Resets()
    resets.feed(b"s1\n" + b"".join(b"t%d\n" % n for n in range(5000)))
    # Forgotten: the call goes on.
    exchange = await run(answering(), Exchange(wire.framed(REQUEST)), resets)
    assert exchange.messages() == [b"answer"]


# Streams


async def test_a_stream_answers_in_order() -> None:
    bodies = [wire.framed(REQUEST)] * 3
    exchange = await run(answering(), Exchange(*bodies, path=STREAM))
    assert len(exchange.messages()) == 3
    assert exchange.told()[b"grpc-status"] == b"0"


async def test_a_stream_without_requests() -> None:
    exchange = await run(answering(), Exchange(b"", path=STREAM))
    assert exchange.messages() == []
    assert exchange.told()[b"grpc-status"] == b"0"


async def test_a_wrong_message_ends_the_stream_after_what_came_before() -> None:
    bodies = [wire.framed(REQUEST), b"\x09bad!"]
    exchange = await run(answering(), Exchange(*bodies, path=STREAM))
    assert len(exchange.messages()) == 1
    assert exchange.told()[b"grpc-status"] == b"13"


async def test_the_deadline_of_a_stream() -> None:
    service = never(asyncio.Event(), [])
    exchange = Exchange(wire.framed(REQUEST), path=STREAM, grpc_timeout=b"20m")
    assert (await run(service, exchange)).told()[b"grpc-status"] == b"4"
