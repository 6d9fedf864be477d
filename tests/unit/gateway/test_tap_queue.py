"""The tap: what it records, what it drops, and what a record tells."""

import asyncio
from dataclasses import replace

import pytest

from gateway import tap as taps
from gateway.call import Answer, Call, Made
from gateway.plan import Kind
from gateway.record import event_of
from gateway.stack import _record
from gateway.tap import Tap
from modelyard.catalog import Catalog, Route, Shadow, Target
from modelyard.catalog.model import frozen
from modelyard.errors import HostGone, ModelNotFound
from modelyard.events.sampling import share_of
from modelyard.events.v1 import event_pb2 as pb
from modelyard.names import ModelName, VersionName
from tests.kit import virtual_time

V1, V2 = VersionName("m", 1), VersionName("m", 2)


def catalog(route=None):
    return Catalog(revision=7, routes=frozen({"m": route} if route else {}))


def call(request_id="r", **more):
    return Call("m", "", b"request", 10.0, request_id, **more)


def tap_of(route, clock=lambda: 5.0):
    held = catalog(route)
    return Tap(lambda: held, clock)


def test_what_no_route_wants_is_not_recorded():
    assert tap_of(None).begin(call()) is None
    assert tap_of(Route("m")).begin(call()) is None


@pytest.mark.parametrize("rate", [0.01, 0.25, 0.9])
def test_a_sample_is_a_share_of_the_calls_and_the_same_for_everyone(rate):
    tap = tap_of(Route("m", tap=rate))
    ids = [f"prefix-{n:x}" for n in range(20_000)]
    recorded = {i for i in ids if tap.begin(call(i))}
    assert recorded == {i for i in ids if share_of(i) < rate}
    # Four standard deviations.
    assert abs(len(recorded) - 20_000 * rate) < 4 * (20_000 * rate * (1 - rate)) ** 0.5


def test_shadows_are_recorded_too():
    route = Route("m", tap=0.1, shadow=(Shadow(Target(version=2), 0.3),))
    assert route.recorded == 0.3
    assert replace(route, tap=0.5).recorded == 0.5


def test_a_call_that_is_not_recorded_has_no_trail():
    one = call()
    tap_of(Route("m")).begin(one)
    assert one.trail is None


async def test_too_many_waiting_are_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(taps, "MOST_WAITING", 3)
    tap = tap_of(Route("m", tap=1.0))
    for _ in range(5):
        tap.end(tap.begin(call()), Answer(b"answer", V1, Kind.PRIMARY))
    assert (tap.counts.recorded, tap.counts.dropped, tap.waiting) == (5, 2, 3)
    assert len(tap.take(2, 1 << 20)) == 2
    tap.end(tap.begin(call()), None, HostGone("gone"))
    assert tap.counts.dropped == 2


async def test_too_large_payloads_waiting_are_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(taps, "MOST_BYTES", 100)
    tap = tap_of(Route("m", tap=1.0))
    tap.end(tap.begin(call()), Answer(b"x" * 200, V1, Kind.PRIMARY))
    assert (tap.counts.dropped, tap.waiting) == (1, 0)
    tap.end(tap.begin(call()), Answer(b"x" * 50, V1, Kind.PRIMARY))
    assert len(tap.take(10, 1 << 20)) == 1
    tap.end(tap.begin(call()), Answer(b"x" * 90, V1, Kind.PRIMARY))
    assert tap.waiting == 1


async def test_a_take_waits_for_something_and_is_bounded():
    tap = tap_of(Route("m", tap=1.0))
    waiting = asyncio.create_task(tap.filled())
    await asyncio.sleep(0)
    assert not waiting.done()
    for _ in range(3):
        tap.end(tap.begin(call()), Answer(b"x" * 93, V1, Kind.PRIMARY))
    await waiting
    assert len(tap.take(10, 150)) == 2
    assert len(tap.take(10, 1)) == 1
    assert tap.take(10, 1) == []


def test_records_gather_until_they_are_worth_a_write_or_time_is_up(monkeypatch):
    monkeypatch.setattr(taps, "WRITE", 3)

    async def main():
        loop, tap = asyncio.get_running_loop(), tap_of(Route("m", tap=1.0))

        def record():
            tap.end(tap.begin(call()), Answer(b"answer", V1, Kind.PRIMARY))

        record()
        await tap.enough(0.5)
        assert loop.time() == 0.5
        for _ in range(2):
            record()
        await tap.enough(0.5)
        assert loop.time() == 0.5
        # What is left after a write waits for more of its kind.
        tap.take(2, 1 << 20)
        await tap.enough(0.5)
        assert loop.time() == 1.0
        # Nothing more comes.
        tap.hurry()
        await tap.enough(0.5)
        assert loop.time() == 1.0

    virtual_time.run(main())


async def test_the_stack_records_answers_and_failures():
    tap = tap_of(Route("m", tap=1.0))

    async def answers(call):
        return Answer(b"answer", V1, Kind.PRIMARY, 1, "h")

    async def fails(call):
        raise ModelNotFound("no such model", model="m")

    async def hangs(call):
        await asyncio.sleep(60)

    await _record(answers, tap)(call("one"))
    with pytest.raises(ModelNotFound):
        await _record(fails, tap)(call("two"))
    gone = asyncio.create_task(_record(hangs, tap)(call("three")))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    events = [event_of(recording) for recording in tap.take(10, 1 << 20)]
    assert [e.call.WhichOneof("outcome") for e in events] == ["answer", "failure", "failure"]
    assert [e.call.failure.reason for e in events] == ["", "MODEL_NOT_FOUND", "CANCELLED"]
    assert not events[1].call.HasField("response")


def test_a_record_tells_the_whole_race():
    clock = iter([5.0, 5.25])
    tap = tap_of(Route("m", tap=1.0, revision=4), lambda: next(clock))
    one = call(metadata=(("x-user", "u"), ("x-raw-bin", b"\x00"), ("modelyard-tenant", "acme")))
    recording = tap.begin(one)
    one.target = V1
    one.trail.extend(
        [
            Made(V1, Kind.PRIMARY, 5.0, "a", 5.25, "cancelled"),
            Made(V1, Kind.HEDGE, 5.1, "b", 5.2, "failed", "HOST_GONE"),
            Made(V2, Kind.FALLBACK, 5.1, "c", 5.25, "answered"),
        ]
    )
    tap.end(recording, Answer(b"answer", V2, Kind.FALLBACK, 3, "c"))
    record = event_of(recording).call
    assert [(a.kind, a.host, a.outcome) for a in record.attempts] == [
        ("primary", "a", pb.Attempt.OUTCOME_CANCELLED),
        ("hedge", "b", pb.Attempt.OUTCOME_FAILED),
        ("fallback", "c", pb.Attempt.OUTCOME_WON),
    ]
    assert record.attempts[1].error == "HOST_GONE"
    assert record.attempts[1].start.ToTimedelta().total_seconds() == pytest.approx(0.1, abs=2e-6)
    assert (record.revision, record.route_revision, record.tenant) == (7, 4, "acme")
    assert record.deadline.ToTimedelta().total_seconds() == 5.0
    assert record.duration.ToTimedelta().total_seconds() == 0.25
    assert [(m.key, m.text, m.binary) for m in record.metadata][:2] == [
        ("x-user", "u", b""),
        ("x-raw-bin", "", b"\x00"),
    ]
    assert (record.answer.served_by, record.answer.host) == ("models/m/versions/2", "c")
    assert record.request.inline == b"request"
    assert record.response.inline == b"answer"


def test_a_default_is_an_attempt_of_the_record():
    tap = tap_of(Route("m", tap=1.0))
    one = call()
    recording = tap.begin(one)
    tap.end(recording, Answer(b"constant", ModelName("m"), Kind.DEFAULT, 1))
    (attempt,) = event_of(recording).call.attempts
    assert (attempt.version, attempt.kind, attempt.outcome) == (
        "models/m",
        "default",
        pb.Attempt.OUTCOME_WON,
    )


def test_two_answers_of_one_version_have_one_winner():
    tap = tap_of(Route("m", tap=1.0))
    one = call()
    recording = tap.begin(one)
    one.trail.extend(
        [
            Made(V1, Kind.PRIMARY, 5.0, "a", 5.2, "answered"),
            Made(V1, Kind.HEDGE, 5.1, "b", 5.2, "answered"),
        ]
    )
    tap.end(recording, Answer(b"answer", V1, Kind.HEDGE, 2, "b"))
    assert [a.outcome for a in event_of(recording).call.attempts] == [
        pb.Attempt.OUTCOME_LOST,
        pb.Attempt.OUTCOME_WON,
    ]
