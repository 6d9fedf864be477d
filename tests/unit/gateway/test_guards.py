"""Guards: what each end of an attempt teaches them, and that a try of a circuit is given back."""

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta

import pytest

from gateway.call import Answer, Call
from gateway.circuit import IN_A_ROW, LONGEST_REST
from gateway.compiler import routed
from gateway.guards import SLOW, Guards
from gateway.latency import LEAST_DATA
from gateway.meter import bucket
from gateway.plan import Kind
from gateway.replicas import Replica
from gateway.survival import MOST
from modelyard.catalog import Fallback, Hedge, Route, Target
from modelyard.errors import (
    DeadlineExceeded,
    HostGone,
    Internal,
    InvalidTensor,
    ModelyardError,
    Overloaded,
    VersionNotServing,
)
from modelyard.metadata import PRIORITY
from modelyard.names import VersionName
from tests.kit.endpoints import CallableEndpoint, answers, host, racer_of, replicas_of
from tests.kit.virtual_time import run

V1, V2 = VersionName("digits", 1), VersionName("digits", 2)
SIZE = 5


class Scene:
    """Guards over two replicas of one version, at a time that is set."""

    def __init__(self) -> None:
        self.now = 100.0
        endpoints = {name: CallableEndpoint(answers(b"!")) for name in ("a", "b")}
        self.replicas = replicas_of(endpoints, lambda: self.now)
        self.replicas.update([host(name, V1) for name in endpoints])
        self.guards = Guards(self.replicas, lambda: self.now, random.Random(1))
        self.guards.limiter(V1)

    @property
    def first(self) -> Replica:
        return self.replicas.of(V1)[0]

    def answered(self, seconds: float = 0.01, times: int = 1) -> None:
        for _ in range(times):
            self.guards.answered(self.first, SIZE, seconds, self.now)

    def failed(self, error: ModelyardError, seconds: float = 0.01, times: int = 1) -> None:
        for _ in range(times):
            self.guards.failed(self.first, SIZE, error, seconds, self.now)

    @property
    def is_open(self) -> bool:
        return self.guards.circuits.is_open(V1, self.now)


def test_answers_fill_the_curve_the_latencies_and_the_limit() -> None:
    scene = Scene()
    scene.answered(0.01, times=LEAST_DATA)
    assert scene.guards.observed("digits")[V1].answered == {bucket(0.01): LEAST_DATA}
    assert scene.guards.trigger(V1, SIZE, Hedge(0.02), scene.now) is not None
    assert scene.guards.limits()[V1].gradient.latency == pytest.approx(0.01)
    assert scene.first.load.average == 0.01


def test_a_fixed_delay_needs_no_data() -> None:
    trigger = Scene().guards.trigger(V1, SIZE, Hedge(0.02, timedelta(milliseconds=15)), 100.0)
    assert trigger is not None
    assert (trigger.delay, trigger.median) == (0.015, 0.0)


def test_a_loser_is_counted_as_far_as_it_was_seen() -> None:
    scene = Scene()
    scene.guards.cancelled(scene.first, SIZE, 0.5, scene.now)
    assert scene.guards.observed("digits")[V1].cancelled == {bucket(0.5): 1}
    assert scene.first.record.attempts == 0


def test_hedges_that_were_given_up_early_do_not_pull_the_trigger_down() -> None:
    quiet, hedged = Scene(), Scene()
    for scene in (quiet, hedged):
        for index in range(400):
            scene.answered(0.010 + 0.0001 * (index % 50))
            if scene is hedged and index % 5 == 0:
                # The first attempt answered right after its hedge had begun.
                scene.guards.cancelled(scene.first, SIZE, 0.0002, scene.now)
    hedge = Hedge(0.5)
    one, other = (s.guards.trigger(V1, SIZE, hedge, s.now + 9.0) for s in (quiet, hedged))
    assert one is not None and other is not None
    assert other.delay == one.delay
    # One that was given up after long tells of the tail, as far as it goes.
    for _ in range(100):
        hedged.guards.cancelled(hedged.first, SIZE, 0.5, hedged.now + 9.0)
    slow = hedged.guards.trigger(V1, SIZE, Hedge(0.1), hedged.now + 9.5)
    assert slow is not None
    assert slow.delay > one.delay


@pytest.mark.parametrize("error", [HostGone("gone"), Internal("bug")])
def test_failures_open_the_circuit_and_eject(error: ModelyardError) -> None:
    scene = Scene()
    scene.failed(error, times=IN_A_ROW)
    assert scene.is_open
    assert scene.first.record.ejected_until > scene.now
    assert scene.guards.observed("digits")[V1].failed == IN_A_ROW


def test_a_lost_connection_rests_its_replica() -> None:
    scene = Scene()
    scene.failed(HostGone("gone"))
    assert scene.first.rests_until > scene.now
    assert scene.replicas.of(V1)[1].rests_until == 0.0


def test_a_callers_fault_is_no_failure() -> None:
    scene = Scene()
    for _ in range(3):
        scene.failed(Internal("bug"), times=IN_A_ROW - 1)
        scene.failed(InvalidTensor("bad"))
    assert not scene.is_open
    assert scene.first.record.ejected_until == 0.0


def test_a_full_queue_is_no_failure() -> None:
    scene = Scene()
    scene.failed(Overloaded("full"), times=10 * IN_A_ROW)
    assert not scene.is_open
    assert scene.first.record.attempts == 0


def test_a_version_that_is_not_loaded_there_is_not_the_replicas_fault() -> None:
    scene = Scene()
    scene.failed(VersionNotServing("not loaded"), times=IN_A_ROW)
    assert scene.is_open
    assert scene.first.record.ejected_until == 0.0


def test_a_caller_in_a_hurry_is_no_failure_of_the_version() -> None:
    scene = Scene()
    scene.answered(0.1, times=LEAST_DATA)
    scene.failed(DeadlineExceeded("late"), seconds=0.1 * SLOW * 0.9, times=10 * IN_A_ROW)
    assert not scene.is_open
    scene.failed(DeadlineExceeded("late"), seconds=0.1 * SLOW * 1.2, times=IN_A_ROW)
    assert scene.is_open


def test_a_version_that_was_overtaken_failed_if_it_is_slow() -> None:
    scene = Scene()
    scene.answered(0.1, times=LEAST_DATA)
    for _ in range(10):
        scene.guards.overtaken(V1, SIZE, 0.2, scene.now)
    assert not scene.is_open
    for _ in range(IN_A_ROW):
        scene.guards.overtaken(V1, SIZE, 0.5, scene.now)
    assert scene.is_open


def test_models_have_budgets_and_versions_limits_of_their_own() -> None:
    guards = Scene().guards
    assert guards.budget("digits") is guards.budget("digits")
    assert guards.budget("digits") is not guards.budget("other")
    assert guards.limiter(V1) is guards.limiter(V1)
    assert guards.limiter(V1) is not guards.limiter(V2)


def test_what_is_gone_is_forgotten() -> None:
    scene = Scene()
    scene.answered()
    budget = scene.guards.budget("digits")
    scene.guards.forget(frozenset({V1}))
    assert scene.guards.budget("digits") is budget
    assert scene.guards.limits() and scene.guards.observed("digits")
    scene.guards.forget(frozenset({VersionName("other", 1)}))
    assert not scene.guards.limits()
    assert not scene.guards.observed("digits")
    assert scene.guards.budget("digits") is not budget


def test_an_answer_may_come_after_its_model_is_gone() -> None:
    scene = Scene()
    scene.guards.forget(frozenset())
    scene.answered()


def test_curves_forget() -> None:
    scene = Scene()
    scene.answered()
    observed = scene.guards._observed[V1]
    observed.answered, observed.seen = {bucket(1.0): MOST}, MOST
    scene.answered()
    assert scene.guards.observed("digits")[V1].total <= MOST // 2 + 1


def test_replicas_that_are_gone_are_forgotten() -> None:
    scene = Scene()
    scene.answered()

    async def go() -> None:
        scene.replicas.update([])

    run(go())
    assert not scene.guards._latencies._windows


# An open circuit lets one attempt through to try. However that one ends, the next may try.

FALLING_BACK = routed(
    Route("digits", fallback=(Fallback(Target(2)),)),
    ((V1, 0.0),),
    1,
    lambda target: VersionName("digits", target.version),
)


def tried(endpoints: dict[str, CallableEndpoint], before: Callable[[Guards], None]) -> bool:
    """Opens the circuit of version 1, lets a call try it; tells whether another may try then."""
    versions = {"a": V1, "b": V2}

    async def main() -> bool:
        clock = asyncio.get_running_loop().time
        replicas = replicas_of(endpoints, clock)
        replicas.update([host(name, versions[name]) for name in endpoints])
        racer = racer_of(replicas, clock)
        guards = racer._guards
        for _ in range(IN_A_ROW):
            guards.circuits.failed(V1, clock())
        await asyncio.sleep(LONGEST_REST)
        before(guards)
        call = Call("digits", "", b"?", clock() + 10.0, "r1", ((PRIORITY, "sheddable"),), target=V1)
        answer = await racer.run(call, FALLING_BACK)
        assert isinstance(answer, Answer)
        assert answer.attempt is Kind.FALLBACK
        await asyncio.sleep(2 * LONGEST_REST)
        await racer.close()
        await replicas.close()
        return guards.circuits.allows(V1, clock())

    return run(main())


def nothing(guards: Guards) -> None:
    """Nothing happens before the call."""


def fills(guards: Guards) -> None:
    limiter = guards.limiter(V1)
    limiter.in_flight = int(limiter.gradient.limit)


def defective() -> CallableEndpoint:
    async def behave(payload: bytes) -> bytes:
        raise ZeroDivisionError

    return CallableEndpoint(behave)


def other() -> CallableEndpoint:
    return CallableEndpoint(answers(b"!"))


def test_a_try_that_hangs_is_given_back() -> None:
    hangs = CallableEndpoint(answers(b"late", after=100.0))
    assert tried({"a": hangs, "b": other()}, nothing)


def test_a_try_that_finds_no_host_is_given_back() -> None:
    assert tried({"b": other()}, nothing)


def test_a_try_that_finds_no_room_is_given_back() -> None:
    assert tried({"a": CallableEndpoint(answers(b"!")), "b": other()}, fills)


def test_a_try_that_ends_in_a_defect_is_given_back() -> None:
    assert tried({"a": defective(), "b": other()}, nothing)
