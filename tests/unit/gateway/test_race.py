"""The engine on virtual time: it does what the referee says, cancels losers, leaves nothing."""

import asyncio

import pytest

from gateway.attempts import PATIENCE
from gateway.call import Answer, Call
from gateway.compiler import direct, routed
from gateway.meter import Meter
from gateway.plan import Attempt, Kind, Plan
from modelyard.catalog import Fallback, HostState, Route, Target
from modelyard.errors import (
    DeadlineExceeded,
    HostGone,
    InvalidTensor,
    ModelyardError,
    VersionNotServing,
)
from modelyard.names import VersionName
from tests.kit.endpoints import CallableEndpoint, answers, fails, host, racer_of, replicas_of
from tests.kit.virtual_time import run

V1 = VersionName("digits", 1)
V2 = VersionName("digits", 2)


def call(deadline: float = 10.0) -> Call:
    return Call("digits", "", b"?", deadline, "r1")


def race(
    plan: Plan, endpoints: dict[str, CallableEndpoint], versions: dict[str, VersionName]
) -> tuple[Answer | ModelyardError, float]:
    """Runs one race on virtual time; gives its outcome and when it ended."""

    async def main() -> tuple[Answer | ModelyardError, float]:
        clock = asyncio.get_running_loop().time
        replicas = replicas_of(endpoints, clock)
        replicas.update([host(name, versions[name]) for name in endpoints])
        try:
            outcome: Answer | ModelyardError = await racer_of(replicas, clock).run(call(), plan)
        except ModelyardError as error:
            outcome = error
        ended = clock()
        await asyncio.sleep(0)
        assert all(replica.load.pending == 0 for replica in replicas.all())
        await replicas.close()
        return outcome, ended

    return run(main())


def test_one_primary_wins() -> None:
    only = CallableEndpoint(answers(b"!", after=0.003))
    outcome, ended = race(direct(V1, 3), {"a": only}, {"a": V1})
    assert outcome == Answer(b"!", V1, Kind.PRIMARY, 1, "a")
    assert ended == pytest.approx(0.003)
    assert only.metadata == [(("modelyard-target", "models/digits/versions/1"),)]


def test_a_lost_connection_is_retried_on_another_replica() -> None:
    dead = CallableEndpoint(fails(lambda: HostGone("gone")))
    good = CallableEndpoint(answers(b"!"))
    for _ in range(20):
        outcome, _ = race(direct(V1, 3), {"dead": dead, "good": good}, {"dead": V1, "good": V1})
        assert isinstance(outcome, Answer)
    assert good.begun == 20


def test_the_callers_error_surfaces_at_once() -> None:
    strict = CallableEndpoint(fails(lambda: InvalidTensor("bad shape"), after=0.001))
    other = CallableEndpoint(fails(lambda: InvalidTensor("bad shape"), after=0.001))
    outcome, _ = race(direct(V1, 3), {"a": strict, "b": other}, {"a": V1, "b": V1})
    assert isinstance(outcome, InvalidTensor)
    assert strict.begun + other.begun == 1


def test_a_slow_host_does_not_hold_a_call_past_its_deadline() -> None:
    slow = CallableEndpoint(answers(b"!", after=100.0))
    outcome, ended = race(direct(V1, 3), {"a": slow}, {"a": V1})
    assert isinstance(outcome, DeadlineExceeded)
    assert ended == pytest.approx(10.0)
    assert slow.ended == slow.begun == 1


def test_the_loser_of_a_rendezvous_is_cancelled() -> None:
    better = CallableEndpoint(answers(b"better", after=5.0))
    lesser = CallableEndpoint(answers(b"lesser", after=0.01))
    plan = Plan(
        (
            Attempt(Kind.RENDEZVOUS, V2, 0, start_at=0.0),
            Attempt(Kind.RENDEZVOUS, V1, 1, start_at=0.0, accept_from=0.08),
        )
    )
    outcome, ended = race(plan, {"b": better, "l": lesser}, {"b": V2, "l": V1})
    assert isinstance(outcome, Answer)
    assert (outcome.payload, outcome.served_by) == (b"lesser", V1)
    assert ended == pytest.approx(0.08)
    assert better.cancelled == 1
    assert better.ended == 1


def test_the_callers_cancellation_cancels_the_attempt() -> None:
    slow = CallableEndpoint(answers(b"!", after=100.0))

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        replicas = replicas_of({"a": slow}, clock)
        replicas.update([host("a", V1)])
        task = asyncio.create_task(racer_of(replicas, clock).run(call(), direct(V1, 3)))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert slow.cancelled == 1
        await replicas.close()

    run(main())


def test_a_call_waits_for_the_host_that_is_on_its_way() -> None:
    good = CallableEndpoint(answers(b"!"))

    async def main() -> float:
        clock = asyncio.get_running_loop().time
        replicas = replicas_of({"a": good}, clock)
        replicas.update([host("a", V1, HostState.LOADING)])
        racing = asyncio.create_task(racer_of(replicas, clock).run(call(), direct(V1, 3)))
        await asyncio.sleep(2.0)
        replicas.update([host("a", V1)])
        await racing
        ended = clock()
        await replicas.close()
        return ended

    assert run(main()) == pytest.approx(2.0)


def test_it_waits_no_longer_than_its_patience() -> None:
    async def main() -> float:
        clock = asyncio.get_running_loop().time
        replicas = replicas_of({}, clock)
        replicas.update([host("a", V1, HostState.LOADING)])
        with pytest.raises(VersionNotServing, match="version 1 is not at ready state"):
            await racer_of(replicas, clock).run(call(), direct(V1, 3))
        return clock()

    assert run(main()) == pytest.approx(PATIENCE)


def test_nobody_waits_for_a_version_that_nobody_starts() -> None:
    async def main() -> float:
        clock = asyncio.get_running_loop().time
        replicas = replicas_of({}, clock)
        with pytest.raises(VersionNotServing):
            await racer_of(replicas, clock).run(call(), direct(V1, 3))
        return clock()

    assert run(main()) == 0.0


def test_a_retired_replica_ends_its_calls_before_it_closes() -> None:
    slow = CallableEndpoint(answers(b"!", after=1.02))

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        replicas = replicas_of({"a": slow}, clock)
        replicas.update([host("a", V1)])
        racing = asyncio.create_task(racer_of(replicas, clock).run(call(), direct(V1, 3)))
        await asyncio.sleep(0.5)
        replicas.update([])
        assert not replicas.serves(V1)
        assert (await racing).payload == b"!"
        assert not slow.closed
        await asyncio.sleep(0.2)
        assert slow.closed
        await replicas.close()

    run(main())


def test_no_storm_while_every_replica_fails() -> None:
    """A minute of 200 calls a second: hosts see a fifth more than the callers sent, and 10/s."""
    meter = Meter()
    endpoints = {n: CallableEndpoint(fails(lambda: HostGone("gone"), 0.001)) for n in "abc"}

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        replicas = replicas_of(endpoints, clock)
        replicas.update([host(name, V1) for name in endpoints])
        racer = racer_of(replicas, clock, meter)

        async def one(at: float) -> None:
            await asyncio.sleep(at)
            with pytest.raises(ModelyardError):
                await racer.run(call(clock() + 2.0), direct(V1, 5))

        await asyncio.gather(*(one(index / 200) for index in range(12_000)))
        await racer.close()
        await replicas.close()

    run(main())
    attempts = sum(endpoint.begun for endpoint in endpoints.values())
    assert 12_000 <= attempts <= 1.2 * 12_000 + 10 * 60 + 100
    assert meter.of(("digits", 1)).exhausted > 0


def test_who_has_another_way_does_not_wait_for_a_host() -> None:
    other = CallableEndpoint(answers(b"other"))

    async def main() -> tuple[Answer, float]:
        clock = asyncio.get_running_loop().time
        replicas = replicas_of({"b": other}, clock)
        replicas.update([host("a", V2, HostState.LOADING), host("b", V1)])
        plan = routed(
            Route("digits", fallback=(Fallback(Target(1)),)), ((V2, 0.0),), 3, lambda t: V1
        )
        answer = await racer_of(replicas, clock).run(call(), plan)
        ended = clock()
        await replicas.close()
        return answer, ended

    answer, ended = run(main())
    assert (answer.payload, answer.attempt, ended) == (b"other", Kind.FALLBACK, 0.0)
