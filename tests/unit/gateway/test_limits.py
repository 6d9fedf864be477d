"""Limits: the gradient by hand, and the queue on virtual time.

Past 300 lines: gradient and queue are one limiter, and are tested as one.
"""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits import (
    INITIAL,
    LEAST,
    LONG_WINDOW,
    LONGEST_QUEUE,
    MOST,
    PERIOD,
    SAMPLES,
    Gradient2,
    Limiter,
    Priority,
)
from modelyard.errors import Overloaded
from tests.kit.virtual_time import run


@dataclass
class Fed:
    """A gradient under a load that is looked at once a step."""

    gradient: Gradient2 = field(default_factory=Gradient2)
    now: float = 0.0

    def look(self, seconds: float, used: float = 1.0, times: int = 1) -> float:
        """Takes in as many latencies as a look needs, with such a share of the limit used."""
        for _ in range(times):
            in_flight = int(used * self.gradient.limit)
            for _ in range(SAMPLES):
                self.gradient.observe(seconds, in_flight, self.now)
            self.now += 2 * PERIOD
        return self.gradient.limit


def test_begins_with_what_is_published() -> None:
    gradient = Gradient2()
    assert (gradient.limit, gradient.latency) == (INITIAL, 0.0)


def test_grows_when_used_and_the_latency_is_flat() -> None:
    fed, before = Fed(), float(INITIAL)
    for _ in range(20):
        after = fed.look(0.01)
        assert before < after <= before + 4.0
        before = after
    assert fed.gradient.latency == pytest.approx(0.01)


def test_stays_while_less_than_half_is_used() -> None:
    fed = Fed()
    assert fed.look(0.01, used=0.4, times=100) == INITIAL
    # Also when the latency grows: whatever made it grow, it was not the load.
    assert fed.look(0.5, used=0.4, times=100) == INITIAL
    assert fed.look(0.01, used=0.5) > INITIAL


def test_shrinks_on_a_growing_latency() -> None:
    fed = Fed()
    before = fed.look(0.01, times=100)
    for _ in range(5):
        after = fed.look(0.1)
        # By half of it a look at most, smoothed.
        assert before * 0.9 <= after < before
        before = after


def test_a_little_more_latency_is_tolerated() -> None:
    fed = Fed()
    before = fed.look(0.01, times=100)
    assert fed.look(0.0145) > before
    fed = Fed()
    before = fed.look(0.01, times=100)
    assert fed.look(0.03) < before


def test_stays_within_its_bounds() -> None:
    fed = Fed()
    assert fed.look(0.01, times=2000) == MOST
    # A latency that doubles at each look, as in a queue that nobody drains.
    for step in range(60):
        fed.look(0.01 * 2**step)
    assert fed.gradient.limit == LEAST


def test_after_an_overload_the_long_term_latency_comes_down_sooner() -> None:
    fed = Fed()
    fed.look(1.0, times=2 * LONG_WINDOW)
    before = fed.gradient.latency
    fed.look(0.01)
    plain = before + (0.01 - before) * 2.0 / (LONG_WINDOW + 1.0)
    assert fed.gradient.latency == pytest.approx(plain * 0.95)


def test_looks_only_at_enough_answers_in_enough_time() -> None:
    gradient = Gradient2()
    for _ in range(SAMPLES - 1):
        gradient.observe(0.01, INITIAL, 0.0)
    assert gradient.latency == 0.0
    gradient.observe(0.01, INITIAL, 0.0)
    first = gradient.limit
    assert first > INITIAL
    for _ in range(10 * SAMPLES):
        gradient.observe(0.01, INITIAL, PERIOD / 2)
    assert gradient.limit == first
    gradient.observe(0.01, INITIAL + 10, PERIOD)
    assert gradient.limit > first


def test_answers_that_take_no_time_are_no_reason_to_shrink() -> None:
    fed = Fed()
    assert fed.look(0.0, times=10) > INITIAL


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.integers(0, 2000)), max_size=300))
def test_bounds_hold_for_any_answers(answers: list[tuple[float, int]]) -> None:
    gradient = Gradient2()
    for step, (seconds, in_flight) in enumerate(answers):
        for _ in range(SAMPLES):
            gradient.observe(seconds, in_flight, step * PERIOD * 2)
        assert LEAST <= gradient.limit <= MOST
        assert gradient.latency >= 0.0


# The queue.


def limiter_of(room: int, latency: float = 0.0, used: int = 0) -> Limiter:
    """A limiter of so much room, of which so much is taken."""
    limiter = Limiter()
    limiter.gradient.limit = float(room)
    limiter.gradient._long = latency
    limiter.in_flight = used
    return limiter


async def enter(limiter: Limiter, priority: Priority, remaining: float) -> None:
    """As an attempt does: what finds room takes it, everything else waits."""
    if limiter.has_room:
        limiter.in_flight += 1
    else:
        await limiter.enter(priority, remaining)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_the_more_important_come_first_then_the_earlier() -> None:
    limiter, came = limiter_of(1, used=1), list[str]()

    async def one(name: str, priority: Priority) -> None:
        await limiter.enter(priority, 100.0)
        came.append(name)
        await asyncio.sleep(1.0)
        limiter.leave()

    async def main() -> None:
        asked = [
            ("default 1", Priority.DEFAULT),
            ("critical 1", Priority.CRITICAL),
            ("default 2", Priority.DEFAULT),
            ("critical 2", Priority.CRITICAL),
        ]
        async with asyncio.TaskGroup() as group:
            for name, priority in asked:
                group.create_task(one(name, priority))
                await turns()
            assert limiter.waiting == 4
            limiter.leave()
        assert (limiter.in_flight, limiter.waiting) == (0, 0)

    run(main())
    assert came == ["critical 1", "critical 2", "default 1", "default 2"]


def test_one_that_may_be_shed_is_refused_at_once() -> None:
    limiter = limiter_of(1, latency=0.25, used=1)

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        with pytest.raises(Overloaded) as refused:
            await limiter.enter(Priority.SHEDDABLE, 100.0)
        assert clock() == began
        assert refused.value.retry_after is not None
        assert refused.value.retry_after.total_seconds() == 0.25

    run(main())
    assert (limiter.in_flight, limiter.waiting) == (1, 0)


@pytest.mark.parametrize(
    ("latency", "seconds"), [(0.0, 0.001), (0.02, 0.02), (59.0, 59.0), (1e6, 60.0)]
)
def test_retry_after_is_a_time_that_one_can_wait(latency: float, seconds: float) -> None:
    limiter = limiter_of(1, latency, used=1)

    async def main() -> None:
        with pytest.raises(Overloaded) as refused:
            await limiter.enter(Priority.SHEDDABLE, 100.0)
        assert refused.value.retry_after is not None
        assert refused.value.retry_after.total_seconds() == pytest.approx(seconds)

    run(main())


def test_refused_when_the_wait_would_be_longer_than_what_remains() -> None:
    limiter = limiter_of(2, latency=1.0, used=2)  # Two a second.

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        # Four wait for 0.5, 1, 1.5 and 2 s; a fifth would wait for 2.5 s.
        tasks = [asyncio.create_task(limiter.enter(Priority.DEFAULT, 2.1)) for _ in range(4)]
        await turns()
        assert limiter.waiting == 4
        began = clock()
        with pytest.raises(Overloaded) as refused:
            await limiter.enter(Priority.DEFAULT, 2.4)
        assert clock() == began
        assert refused.value.retry_after is not None
        assert refused.value.retry_after.total_seconds() == 2.5
        last = asyncio.create_task(limiter.enter(Priority.DEFAULT, 2.6))
        for _ in range(7):
            limiter.leave()
            await turns()
        await asyncio.gather(*tasks, last)

    run(main())
    assert limiter.in_flight == 0


def test_refused_when_nothing_remains() -> None:
    async def main() -> None:
        for remaining in (0.0, -1.0):
            with pytest.raises(Overloaded):
                await limiter_of(1, used=1).enter(Priority.CRITICAL, remaining)

    run(main())


def test_what_waits_in_vain_is_refused_in_the_end() -> None:
    limiter = limiter_of(1, latency=0.01, used=1)

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        with pytest.raises(Overloaded) as refused:
            await limiter.enter(Priority.DEFAULT, 0.5)
        assert clock() - began == pytest.approx(0.5)
        assert refused.value.retry_after is not None
        # Its place was given up: the room goes to whoever comes.
        limiter.leave()
        assert (limiter.in_flight, limiter.waiting) == (0, 0)

    run(main())


def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.limits.LONGEST_QUEUE", 3)
    assert LONGEST_QUEUE > 3
    limiter = limiter_of(1, used=1)

    async def main() -> None:
        tasks = [asyncio.create_task(limiter.enter(Priority.DEFAULT, 10.0)) for _ in range(3)]
        await turns()
        with pytest.raises(Overloaded):
            await limiter.enter(Priority.CRITICAL, 10.0)
        for _ in range(4):
            limiter.leave()
            await turns()
        await asyncio.gather(*tasks)

    run(main())
    assert limiter.in_flight == 0


def test_a_cancelled_waiter_leaks_no_room() -> None:
    limiter = limiter_of(1, used=1)

    async def main() -> None:
        first = asyncio.create_task(limiter.enter(Priority.DEFAULT, 10.0))
        second = asyncio.create_task(limiter.enter(Priority.DEFAULT, 10.0))
        await turns()
        first.cancel()
        await turns()
        assert first.cancelled()
        limiter.leave()
        await second
        assert limiter.in_flight == 1
        limiter.leave()
        assert (limiter.in_flight, limiter.waiting) == (0, 0)

    run(main())


def test_room_that_is_given_in_the_turn_of_a_cancellation_goes_on_to_the_next() -> None:
    limiter = limiter_of(1, used=1)

    async def main() -> None:
        first = asyncio.create_task(limiter.enter(Priority.DEFAULT, 10.0))
        second = asyncio.create_task(limiter.enter(Priority.DEFAULT, 10.0))
        await turns()
        limiter.leave()  # The room is the first one's,
        first.cancel()  # which will not take it any more.
        await second
        assert first.cancelled()
        assert limiter.in_flight == 1
        limiter.leave()

    run(main())
    assert (limiter.in_flight, limiter.waiting) == (0, 0)


def test_room_that_is_given_in_the_turn_of_a_timeout_is_given_back() -> None:
    limiter = limiter_of(1, used=1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        waits = asyncio.create_task(limiter.enter(Priority.DEFAULT, 1.0))
        await turns()
        # The timeout's timer was set before: in one turn it fires first, then the room comes.
        loop.call_at(loop.time() + 1.0, limiter.leave)
        with pytest.raises(Overloaded):
            await waits
        await turns()
        assert limiter.in_flight == 0

    run(main())


def test_room_that_is_given_just_before_a_timeout_is_kept_or_given_back() -> None:
    limiter = limiter_of(1, used=1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_at(loop.time() + 1.0, limiter.leave)  # Set first, so it comes first.
        taken = True
        try:
            await limiter.enter(Priority.DEFAULT, 1.0)
        except Overloaded:
            taken = False
        assert limiter.in_flight == taken

    run(main())


def test_who_gave_up_waits_no_more() -> None:
    limiter = limiter_of(1, latency=1.0, used=1)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await limiter.enter(Priority.DEFAULT, 100.0)
        assert limiter.waiting == 0

    run(main())


def test_who_gave_up_does_not_keep_others_away() -> None:
    limiter = limiter_of(1, latency=1.0, used=1)

    async def main() -> None:
        for _ in range(10):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await limiter.enter(Priority.DEFAULT, 100.0)
        # Nobody waits: this one would have its turn in a second.
        waits = asyncio.create_task(limiter.enter(Priority.DEFAULT, 5.0))
        await turns()
        limiter.leave()
        await waits

    run(main())


@dataclass(frozen=True)
class Visit:
    """An attempt: when it comes, how long it stays, and when it is cancelled, if it is."""

    at: float
    stays: float
    patience: float
    priority: Priority
    cancelled: float | None


# Few distinct moments, so that many things happen in one turn.
ticks = st.integers(0, 12).map(float)
visits = st.builds(
    Visit,
    at=ticks,
    stays=ticks,
    patience=st.integers(1, 12).map(float),
    priority=st.sampled_from(Priority),
    cancelled=st.none() | ticks,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(visits, max_size=25), st.integers(1, 4), st.sampled_from([0.0, 0.5, 2.0]))
def test_any_coming_and_going(found: list[Visit], room: int, latency: float) -> None:
    limiter = limiter_of(room, latency)
    inside, seen = 0, list[int]()

    async def one(visit: Visit) -> None:
        nonlocal inside
        await asyncio.sleep(visit.at)
        try:
            await enter(limiter, visit.priority, visit.patience)
        except Overloaded:
            return
        inside += 1
        try:
            seen.append(limiter.in_flight)
            assert inside <= limiter.in_flight <= room
            await asyncio.sleep(visit.stays)
        finally:
            inside -= 1
            limiter.leave()
            seen.append(limiter.in_flight)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(one(visit)) for visit in found]
        for task, visit in zip(tasks, found, strict=True):
            if visit.cancelled is not None:
                loop.call_at(visit.cancelled, task.cancel)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in ended:
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome

    run(main())
    assert inside == limiter.in_flight == 0
    assert all(0 <= count <= room + 1 for count in seen)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([Priority.CRITICAL, Priority.DEFAULT]), st.integers(1, 3))),
    st.lists(st.integers(20, 60), min_size=1),
)
def test_a_limit_that_moves_strands_nobody(
    asked: list[tuple[Priority, int]], limits: list[int]
) -> None:
    limiter = limiter_of(LEAST)

    async def one(priority: Priority, stays: int) -> None:
        await enter(limiter, priority, 1e6)
        await asyncio.sleep(stays)
        limiter.leave()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for second, limit in enumerate(limits):
            loop.call_at(second + 0.5, setattr, limiter.gradient, "limit", float(limit))
        async with asyncio.TaskGroup() as group:
            for priority, stays in asked * 8:
                group.create_task(one(priority, stays))

    run(main())
    assert (limiter.in_flight, limiter.waiting) == (0, 0)


@given(st.lists(st.tuples(st.floats(1e-4, 10.0), st.floats(0.0, 1.0)), max_size=60))
def test_limits_that_share_the_calls_move_together_as_one(looks) -> None:
    whole, part, now = Gradient2(), Gradient2(1 / 8), 0.0
    for seconds, used in looks:
        for _ in range(SAMPLES):
            whole.observe(seconds, used * whole.limit, now)
            part.observe(seconds, used * part.limit, now)
        now += 2 * PERIOD
        assert part.limit * 8 == pytest.approx(whole.limit)
