"""The tap: what it records, and what it drops."""

import asyncio
from dataclasses import replace

import pytest

from gateway import tap as taps
from gateway.call import Answer, Call, Made
from gateway.plan import Kind
from gateway.stack import _record
from gateway.tap import Tap
from modelyard.catalog import Catalog, Route, Shadow, Target
from modelyard.catalog.model import frozen
from modelyard.errors import HostGone, ModelNotFound
from modelyard.events.sampling import share_of
from modelyard.names import VersionName
from tests.kit import virtual_time

V1 = VersionName("m", 1)


def catalog(route=None):
    return Catalog(revision=7, routes=frozen({"m": route} if route else {}))


def call(request_id="r", **more):
    return Call("m", "", b"request", 10.0, request_id, **more)


def tap_of(route, clock=lambda: 5.0):
    held = catalog(route)
    return Tap(lambda: held, clock)


def record(tap, answer=None, error=None):
    tap.end(tap.begin(call()), answer, error)


def answer(size=6):
    return Answer(b"x" * size, V1, Kind.PRIMARY)


def counts(tap):
    return tap.counts.recorded, tap.counts.written, tap.counts.dropped, tap.waiting, tap.left


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
        record(tap, answer())
    assert counts(tap) == (5, 0, 2, 3, 3)
    # Who took them has them still: they wait until it is known what became of them.
    assert len(tap.take(2)) == 2
    record(tap, answer())
    assert counts(tap) == (6, 0, 3, 3, 1)
    tap.done(26, written=1, dropped=1)
    record(tap, None, HostGone("gone"))
    assert counts(tap) == (7, 1, 4, 2, 2)


async def test_too_large_payloads_waiting_are_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(taps, "MOST_BYTES", 100)
    tap = tap_of(Route("m", tap=1.0))
    record(tap, answer(200))
    assert counts(tap) == (1, 0, 1, 0, 0)
    record(tap, answer(50))
    (taken,) = tap.take(10)
    record(tap, answer(90))
    assert tap.counts.dropped == 2
    tap.done(taken.size, written=1)
    record(tap, answer(90))
    assert counts(tap) == (4, 1, 2, 1, 1)


async def test_who_takes_waits_for_something():
    tap = tap_of(Route("m", tap=1.0))
    waiting = asyncio.create_task(tap.filled())
    await asyncio.sleep(0)
    assert not waiting.done()
    for _ in range(3):
        record(tap, answer())
    await waiting
    assert len(tap.take(2)) == 2
    await tap.filled()
    assert len(tap.take(2)) == 1
    again = asyncio.create_task(tap.filled())
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()


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
    one, two, three = tap.take(10)
    assert (one.answer.payload, one.failure) == (b"answer", None)
    assert (two.answer, two.failure) == (None, ("MODEL_NOT_FOUND", "no such model"))
    assert (three.answer, three.failure) == (None, ("CANCELLED", "the caller gave up"))


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (HostGone("no host"), ("HOST_GONE", "no host")),
        (asyncio.CancelledError(), ("CANCELLED", "the caller gave up")),
        (KeyError("x"), ("INTERNAL", "KeyError")),
    ],
)
async def test_a_failure_is_kept_without_its_error(error, failure):
    tap = tap_of(Route("m", tap=1.0))
    record(tap, None, error)
    (recording,) = tap.take(1)
    assert recording.failure == failure


def test_a_recording_waits_for_what_lost_its_race():
    async def main():
        loop, tap = asyncio.get_running_loop(), tap_of(Route("m", tap=1.0))
        one = call()
        recording = tap.begin(one)
        loser = Made(V1, Kind.PRIMARY, 5.0, "a")
        one.trail += [loser, Made(V1, Kind.HEDGE, 5.1, "b", 5.2, "answered")]
        tap.end(recording, Answer(b"answer", V1, Kind.HEDGE, 2, "b"))
        assert (tap.take(10), tap.left) == ([], 1)
        loser.outcome, loser.ended = "cancelled", 5.3
        began = loop.time()
        await tap.filled()
        assert 0 < loop.time() - began < 0.1
        assert (tap.take(10), tap.left) == ([recording], 0)
        # One that never says how it ended is waited for no longer.
        recording = tap.begin(two := call())
        two.trail.append(Made(V1, Kind.PRIMARY, 5.0, "a"))
        tap.end(recording, None, HostGone("gone"))
        await tap.filled()
        assert tap.take(10) == [recording]

    virtual_time.run(main())
