"""A recorder in its own process, a Redis, and the gateway's end between them and the tap."""

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager

import numpy as np
import psutil
import pytest

from gateway.call import Answer, Call, Made
from gateway.plan import Kind
from gateway.recorder.link import RecorderLink
from gateway.settings import GatewaySettings
from gateway.tap import Tap
from modelyard import redis_server
from modelyard.catalog import Catalog, Route
from modelyard.catalog.model import frozen
from modelyard.client.inference import inputs_of
from modelyard.errors import InvalidArgument, StoreUnavailable
from modelyard.events.payloads import Payloads
from modelyard.events.progress import Progress
from modelyard.events.reader import Reader, fresh
from modelyard.events.streams import decoded
from modelyard.events.v1 import event_pb2
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.names import VersionName
from modelyard.redis_client import connect
from tests.kit.events import request

V1 = VersionName("m", 1)
CATALOG = Catalog(1, routes=frozen({"m": Route("m", tap=1.0)}))


@pytest.fixture
def log(tmp_path_factory):
    """A Redis of its own: its URL."""
    folder = tmp_path_factory.mktemp("r")
    with redis_server.running(folder, folder / "s", fsync="everysec"):
        yield f"unix://{folder / 's'}"


@asynccontextmanager
async def recorder(log, **settings):
    tap = Tap(lambda: CATALOG, time.monotonic)
    told = GatewaySettings(registry="unix:/nobody", events=log, **settings)
    link = RecorderLink(tap, told, time.monotonic)
    link.start()
    try:
        await link.ready()
        yield tap, link
    finally:
        await link.close()


def call(tap, request_id, payload=b"request"):
    one = Call("m", "", payload, time.monotonic() + 1, request_id)
    recording = tap.begin(one)
    assert one.trail is not None
    one.trail.append(Made(V1, Kind.PRIMARY, time.monotonic(), "h", time.monotonic(), "answered"))
    tap.end(recording, Answer(b"answer", V1, Kind.PRIMARY, 1, "h"))


async def until(true):
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


async def logged(log):
    redis, progress = connect(log), Progress()
    found = []
    reader = Reader(redis, "test", "m")
    while entries := await reader.read(100):
        found += [e for entry in entries for e in decoded(entry, fresh(progress, entry))]
    await redis.aclose()
    return found


async def test_calls_are_in_the_log_in_order_and_counted(log):
    async with recorder(log) as (tap, _):
        for number in range(300):
            call(tap, str(number))
        await until(lambda: tap.counts.written == 300)
        assert (tap.waiting, tap.counts.dropped, tap._bytes) == (0, 0, 0)
    assert [e.call.request_id for e in await logged(log)] == [str(n) for n in range(300)]


async def test_what_waits_is_written_before_it_ends(log):
    async with recorder(log) as (tap, link):
        for number in range(100):
            call(tap, str(number))
    assert (tap.counts.written, tap.waiting) == (100, 0)
    assert not psutil.pid_exists(link.pid)
    assert len(await logged(log)) == 100


async def test_what_was_taken_and_not_sent_yet_is_written_before_it_ends(log):
    async with recorder(log) as (tap, _):
        for number in range(40):
            call(tap, str(number))
        # The first turn of the loop in which nothing is left to take: then it is told to end.
        while tap.left:
            await asyncio.sleep(0)
    assert (tap.counts.written, tap.counts.dropped) == (40, 0)


async def test_a_recorder_that_is_killed_is_started_again_and_its_calls_are_counted(log):
    async with recorder(log) as (tap, link):
        for number in range(50):
            call(tap, f"before-{number}")
        await until(lambda: tap.counts.written == 50)
        os.kill(link.pid, signal.SIGSTOP)
        for number in range(20):
            call(tap, f"lost-{number}")
        await until(lambda: tap.left == 0)
        first = link.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: tap.counts.dropped == 20)
        for number in range(50):
            call(tap, f"after-{number}")
        await until(lambda: tap.counts.written == 100)
        assert link.pid != first
        assert (tap.waiting, tap._bytes) == (0, 0)
    names = [e.call.request_id.split("-")[0] for e in await logged(log)]
    assert (names.count("before"), names.count("lost"), names.count("after")) == (50, 0, 50)


async def test_a_gateway_that_is_gone_has_handed_over_what_it_could(log):
    async with recorder(log) as (tap, link):
        os.kill(link.pid, signal.SIGSTOP)
        for number in range(40):
            call(tap, str(number))
        await until(lambda: tap.left == 0)
        await asyncio.sleep(0.1)
        # As the kernel does for a process that was killed.
        link._writer.transport.abort()
        os.kill(link.pid, signal.SIGCONT)
        await until(lambda: tap.counts.dropped == 40)
    assert len(await logged(log)) == 40


async def test_calls_that_cannot_be_told_are_dropped_and_stop_nothing(log):
    async with recorder(log) as (tap, _):
        call(tap, object())
        await until(lambda: tap.counts.dropped == 1)
        call(tap, "r")
        await until(lambda: tap.counts.written == 1)
        assert (tap.waiting, tap._bytes) == (0, 0)
    assert [e.call.request_id for e in await logged(log)] == ["r"]


async def test_a_call_that_no_message_can_hold_is_dropped_alone(log):
    async with recorder(log) as (tap, _):
        for request_id in ("before", "\udc80", "after"):
            call(tap, request_id)
        await until(lambda: not tap.waiting)
        assert (tap.counts.written, tap.counts.dropped, tap._bytes) == (2, 1, 0)
    events = await logged(log)
    assert [e.call.request_id for e in events] == ["before", "after"]
    # No number was given to what is not there.
    assert [e.id.partition("-")[2] for e in events] == ["1", "2"]


async def test_what_is_redacted_or_too_large_is_not_in_the_log(log, tmp_path):
    (tmp_path / "rules.yaml").write_text("- inputs: {x: drop}\n")
    settings = {
        "events_inline": 100,
        "payloads": str(tmp_path / "payloads"),
        "redaction": tmp_path / "rules.yaml",
    }
    secret = request(x=np.full(9, 1.5, np.float32), y=np.float32([2.5]))
    async with recorder(log, **settings) as (tap, _):
        call(tap, "small", secret)
        call(tap, "large", request(x=np.full(1000, 1.5, np.float32)))
        call(tap, "unreadable", b"\xff\xff")
        await until(lambda: tap.counts.written == 3)
        assert tap._bytes == 0
    small, large, unreadable = (e.call.request for e in await logged(log))
    inputs = inputs_of(oip.ModelInferRequest.FromString(small.inline))
    assert not inputs["x"].any()
    assert inputs["y"].tolist() == [2.5]
    assert small.redacted and large.redacted and unreadable.redacted
    assert (unreadable.WhichOneof("place"), unreadable.size) == (None, 2)
    aside = await Payloads(settings["payloads"]).get(large)
    assert len(aside) == large.size > 4000
    assert not inputs_of(oip.ModelInferRequest.FromString(aside))["x"].any()


async def test_an_event_is_written_before_it_is_told(log):
    async with recorder(log) as (_, link):
        event = event_pb2.Event(model="models/m")
        event.feedback.request_id = "r"
        ids = await asyncio.gather(*(link.write("m", event) for _ in range(3)))
        found = await logged(log)
        assert sorted(ids) == sorted(e.id for e in found)
        assert {e.feedback.request_id for e in found} == {"r"}


async def test_an_event_that_nobody_took_is_told_so(tmp_path):
    async with recorder(f"unix://{tmp_path / 'nobody'}") as (_, link):
        with pytest.raises(StoreUnavailable):
            await link.write("m", event_pb2.Event(model="models/m"))
        os.kill(link.pid, signal.SIGSTOP)
        asked = asyncio.create_task(link.write("m", event_pb2.Event(model="models/m")))
        await asyncio.sleep(0.05)
        os.kill(link.pid, signal.SIGKILL)
        with pytest.raises(StoreUnavailable, match="the recorder ended"):
            await asked


async def test_large_payloads_go_through(log, tmp_path):
    async with recorder(log, payloads=str(tmp_path), events_inline=1000) as (tap, _):
        call(tap, "large", b"q" * (8 << 20))
        call(tap, "small")
        await until(lambda: tap.counts.written == 2)
    large, small = await logged(log)
    assert (tmp_path / large.call.request.reference).stat().st_size == 8 << 20
    assert small.call.request.inline == b"request"


async def test_what_must_not_be_kept_is_in_no_record(log, tmp_path):
    rules, key = tmp_path / "rules.yaml", tmp_path / "key"
    rules.write_text("- inputs: {x: hash}\n")
    key.write_bytes(b"k" * 32)
    async with recorder(log, redaction=rules, redaction_key=key) as (tap, _):
        call(tap, "r")
        await until(lambda: tap.counts.written == 1)
    # The payload is no message: what is in it cannot be known, and it is not kept.
    (event,) = await logged(log)
    assert not event.call.request.inline


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"events": "http://x"}, "redis"), ({"redaction": "/nowhere"}, "redaction")],
)
async def test_a_wrong_setting_is_told(log, settings, field):
    with pytest.raises(InvalidArgument) as told:
        async with recorder(settings.pop("events", log), **settings):
            pass
    assert told.value.metadata["field"] == field
