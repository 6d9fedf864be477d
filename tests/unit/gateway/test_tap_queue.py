"""The tap: what it records, what it drops, and what a record tells."""

import asyncio
from dataclasses import replace

import pytest

from gateway import tap as taps
from gateway.call import Answer, Call, Made
from gateway.plan import Kind
from gateway.record import Recorder, event_of
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
    return Tap(lambda: held, clock, Recorder(1 << 20))


async def record(tap, answer=None, error=None):
    """One call; returns when it is a record."""
    tap.end(tap.begin(call()), answer, error)
    await made()


async def made():
    """Returns when the calls that are over are records."""
    await asyncio.sleep(0.025)


def answer(size=6):
    return Answer(b"x" * size, V1, Kind.PRIMARY)


def events(tap):
    return [pb.Event.FromString(taken.event) for taken in tap.take(10, 1 << 20)]


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
        await record(tap, answer())
    assert (tap.counts.recorded, tap.counts.dropped, tap.waiting) == (5, 2, 3)
    assert len(tap.take(2, 1 << 20)) == 2
    await record(tap, None, HostGone("gone"))
    assert tap.counts.dropped == 2


async def test_what_is_not_a_record_yet_waits_as_well(monkeypatch):
    monkeypatch.setattr(taps, "MOST_WAITING", 3)
    tap = tap_of(Route("m", tap=1.0))
    for _ in range(5):
        tap.end(tap.begin(call()), answer())
    assert (tap.counts.dropped, tap.waiting) == (2, 3)
    await made()
    assert (tap.counts.dropped, tap.waiting, len(events(tap))) == (2, 3, 3)


async def test_too_large_payloads_waiting_are_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(taps, "MOST_BYTES", 100)
    tap = tap_of(Route("m", tap=1.0))
    await record(tap, answer(200))
    assert (tap.counts.dropped, tap.waiting) == (1, 0)
    await record(tap, answer(50))
    assert len(tap.take(10, 1 << 20)) == 1
    await record(tap, answer(90))
    assert tap.waiting == 1


async def test_a_take_waits_for_something_and_is_bounded():
    tap = tap_of(Route("m", tap=1.0))
    waiting = asyncio.create_task(tap.filled())
    await asyncio.sleep(0)
    assert not waiting.done()
    for _ in range(3):
        await record(tap, answer(93))
    await waiting
    assert len(tap.take(10, 150)) == 2
    assert len(tap.take(10, 1)) == 1
    assert tap.take(10, 1) == []


def test_records_gather_until_they_are_worth_a_write_or_time_is_up(monkeypatch):
    monkeypatch.setattr(taps, "WRITE", 3)

    async def main():
        loop, tap = asyncio.get_running_loop(), tap_of(Route("m", tap=1.0))

        async def waited():
            began = loop.time()
            await tap.enough(0.5)
            return loop.time() - began

        await record(tap, answer())
        assert await waited() == pytest.approx(0.5)
        for _ in range(2):
            await record(tap, answer())
        assert await waited() == 0.0
        # What is left after a write waits for more of its kind.
        tap.take(2, 1 << 20)
        assert await waited() == pytest.approx(0.5)
        # Nothing more comes.
        tap.hurry()
        assert await waited() == 0.0

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
    await made()
    found = events(tap)
    assert [e.call.WhichOneof("outcome") for e in found] == ["answer", "failure", "failure"]
    assert [e.call.failure.reason for e in found] == ["", "MODEL_NOT_FOUND", "CANCELLED"]
    assert not found[1].call.HasField("response")


def test_calls_become_records_later_and_few_in_a_turn(monkeypatch):
    monkeypatch.setattr(taps, "_AT_ONCE", 2)

    async def main():
        loop, order, held = asyncio.get_running_loop(), [], catalog(Route("m", tap=1.0))

        def make(recording):
            order.append(recording.call.request_id)
            if order == ["a", "b"]:
                loop.call_soon(order.append, "a call meanwhile")
            return Recorder(1 << 20)(recording)

        tap = Tap(lambda: held, lambda: 5.0, make)
        for name in ("a", "b", "c", "d", "e"):
            tap.end(tap.begin(call(name)), answer())
        await asyncio.sleep(0.015)
        assert (order, tap.waiting) == ([], 5)
        await made()
        assert order == ["a", "b", "a call meanwhile", "c", "d", "e"]
        tap.end(tap.begin(call("f")), answer())
        await made()
        assert (order[-1], tap.waiting, len(events(tap))) == ("f", 6, 6)

    virtual_time.run(main())


def test_a_record_waits_for_what_lost_its_race():
    async def main():
        loop, tap = asyncio.get_running_loop(), tap_of(Route("m", tap=1.0))
        one = call()
        recording = tap.begin(one)
        loser = Made(V1, Kind.PRIMARY, 5.0, "a")
        one.trail += [loser, Made(V1, Kind.HEDGE, 5.1, "b", 5.2, "answered")]
        tap.end(recording, Answer(b"answer", V1, Kind.HEDGE, 2, "b"))
        await made()
        assert (tap.waiting, events(tap)) == (1, [])
        loser.outcome, loser.ended = "cancelled", 5.3
        await asyncio.sleep(0.1)
        (event,) = events(tap)
        assert event.call.attempts[0].outcome == pb.Attempt.OUTCOME_CANCELLED
        # One that never says how it ended is recorded so.
        recording = tap.begin(two := call())
        two.trail.append(Made(V1, Kind.PRIMARY, 5.0, "a"))
        began = loop.time()
        tap.end(recording, None, HostGone("gone"))
        await tap.filled()
        assert 0 < loop.time() - began < 0.1
        assert events(tap)[0].call.attempts[0].outcome == pb.Attempt.OUTCOME_UNSPECIFIED

    virtual_time.run(main())


async def test_what_cannot_be_made_a_record_is_dropped_and_counted():
    held = catalog(Route("m", tap=1.0))

    def redact(event):
        raise ValueError("what is in it cannot be known")

    tap = Tap(lambda: held, lambda: 5.0, Recorder(1 << 20, redact))
    await record(tap, answer())
    assert (tap.counts.recorded, tap.counts.dropped, tap.waiting, tap._bytes) == (1, 1, 0, 0)


async def test_a_record_with_a_large_payload_is_not_serialized_yet():
    held = catalog(Route("m", tap=1.0))
    tap = Tap(lambda: held, lambda: 5.0, Recorder(100))
    await record(tap, answer(100))
    await record(tap, answer(101))
    small, large = tap.take(10, 1 << 20)
    assert isinstance(small.event, bytes)
    assert isinstance(large.event, pb.Event)
    assert large.event.call.response.inline == b"x" * 101


async def test_a_record_tells_the_whole_race():
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
    told = event_of(recording).call
    assert [(a.kind, a.host, a.outcome) for a in told.attempts] == [
        ("primary", "a", pb.Attempt.OUTCOME_CANCELLED),
        ("hedge", "b", pb.Attempt.OUTCOME_FAILED),
        ("fallback", "c", pb.Attempt.OUTCOME_WON),
    ]
    assert told.attempts[1].error == "HOST_GONE"
    assert told.attempts[1].start.ToTimedelta().total_seconds() == pytest.approx(0.1, abs=2e-6)
    assert (told.revision, told.route_revision, told.tenant) == (7, 4, "acme")
    assert told.deadline.ToTimedelta().total_seconds() == 5.0
    assert told.duration.ToTimedelta().total_seconds() == 0.25
    assert [(m.key, m.text, m.binary) for m in told.metadata][:2] == [
        ("x-user", "u", b""),
        ("x-raw-bin", "", b"\x00"),
    ]
    assert (told.answer.served_by, told.answer.host) == ("models/m/versions/2", "c")
    assert told.request.inline == b"request"
    assert told.response.inline == b"answer"


async def test_a_default_is_an_attempt_of_the_record():
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


async def test_two_answers_of_one_version_have_one_winner():
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
