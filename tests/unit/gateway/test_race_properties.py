"""Races of every sort, on virtual time: what holds whatever the hosts do.

Endpoints answer, fail, hang or reset after random times; callers may give up. Each race runs with
the real engine, referee and guards.
"""

import asyncio
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.call import Answer, Call
from gateway.compiler import direct, routed
from gateway.meter import Meter
from gateway.plan import Kind, Plan
from gateway.referee import SPARE, SPARE_SHARE
from modelyard.catalog import (
    Catalog,
    Constant,
    Fallback,
    Hedge,
    Model,
    Route,
    Signature,
    Target,
    Tensor,
    Version,
)
from modelyard.catalog.model import frozen
from modelyard.errors import (
    DeadlineExceeded,
    HostGone,
    Internal,
    InvalidTensor,
    ModelyardError,
    OnFailure,
    Overloaded,
)
from modelyard.names import VersionName
from tests.kit.endpoints import CallableEndpoint, answers, fails, host, racer_of, replicas_of
from tests.kit.virtual_time import run

MODEL = "digits"
VERSIONS = tuple(VersionName(MODEL, number) for number in (1, 2, 3))
ERRORS: tuple[type[ModelyardError], ...] = (HostGone, Internal, InvalidTensor, Overloaded)
# Nanoseconds of floating-point slack.
SLACK = 1e-9


@dataclass
class Temper:
    """What an endpoint does: after so long it answers, or fails so; it may be asked often."""

    after: float
    error: type[ModelyardError] | None


@dataclass
class Scene:
    """A plan, the hosts of each version, and the caller's patience."""

    plan: Plan
    tempers: dict[VersionName, list[Temper]]
    deadline: float
    gives_up: float | None
    seed: int
    ready_budget: bool


@dataclass
class Seen:
    """What an outsider saw of a race."""

    outcome: Answer | ModelyardError | None
    ended: float
    # (endpoint, began, ended, how), in the order in which they began.
    asked: list[list[Any]] = field(default_factory=list)
    meter: Meter = field(default_factory=Meter)
    losers: int = 0


moments = st.floats(0.0, 1.5, allow_nan=False).map(lambda t: round(t, 3))
tempers = st.builds(
    Temper, after=moments, error=st.one_of(st.none(), st.none(), st.sampled_from(ERRORS))
)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    hosts = {
        version: draw(st.lists(tempers, min_size=0 if version.number > 1 else 1, max_size=3))
        for version in VERSIONS
    }
    hedge = draw(st.none() | st.builds(Hedge, st.just(1.0), st.just(None)))
    if hedge is not None:
        hedge = Hedge(1.0, timedelta(seconds=draw(st.floats(0.01, 0.5))))
    attempts = draw(st.integers(1, 3))
    first, second, _ = VERSIONS
    legs: tuple[tuple[VersionName, float], ...] = ((first, 0.0),)
    fallback: list[Fallback] = []
    shape = draw(st.sampled_from(["direct", "fallback", "rendezvous"]))
    if shape == "rendezvous":
        legs = ((first, 0.0), (second, draw(moments)))
    if shape != "direct" and draw(st.booleans()):
        fallback.append(Fallback(Target(3)))
    if shape != "direct" and draw(st.booleans()):
        fallback.append(Fallback(Constant({"y": [0.5]})))
    if shape == "direct":
        plan = direct(first, attempts, hedge)
    else:
        route = Route(MODEL, fallback=tuple(fallback), hedge=hedge)
        plan = routed(route, legs, attempts, lambda t: VersionName(MODEL, t.version))
    return Scene(
        plan,
        hosts,
        deadline=draw(st.floats(0.05, 1.0)),
        gives_up=draw(st.none() | st.floats(0.0, 1.2)),
        seed=draw(st.integers(0, 9)),
        ready_budget=draw(st.booleans()),
    )


def catalogue() -> Catalog:
    created = datetime(2026, 1, 1, tzinfo=UTC)
    signature = Signature((), (Tensor("y", "FP32", (1,)),))
    versions = {v.number: Version(v, "sha256:0", (), signature, created) for v in VERSIONS}
    return Catalog(1, frozen({MODEL: Model(MODEL, created, frozen(versions))}))


def play(scene: Scene) -> Seen:
    """Runs one race and gives what was seen of it."""
    seen = Seen(None, 0.0)

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        endpoints: dict[str, CallableEndpoint] = {}
        hosts = []
        for version, found in scene.tempers.items():
            for index, temper in enumerate(found):
                name = f"v{version.number}-{index}"
                behaviour = (
                    answers(name.encode(), temper.after)
                    if temper.error is None
                    else fails(lambda kind=temper.error: kind("no"), temper.after)
                )
                endpoints[name] = watched(name, behaviour, clock)
                hosts.append(host(name, version))
        replicas = replicas_of(endpoints, clock, scene.seed)
        replicas.update(hosts)
        racer = racer_of(replicas, clock, seen.meter, catalogue())
        if scene.ready_budget:
            for _ in range(100):
                racer._guards.budget(MODEL).deposit(clock())
        call = Call(MODEL, "", b"", clock() + scene.deadline, "r", target=VERSIONS[0])
        racing = asyncio.create_task(racer.run(call, scene.plan))
        if scene.gives_up is not None:
            asyncio.get_running_loop().call_later(scene.gives_up, racing.cancel)
        try:
            seen.outcome = await racing
        except ModelyardError as error:
            seen.outcome = error
        except asyncio.CancelledError:
            seen.outcome = None
        seen.ended = clock()
        seen.losers = racer.losers
        await asyncio.sleep(0)
        await racer.close()
        assert clock() == seen.ended  # Losers end at once, not when their hosts would.
        assert all(replica.load.pending == 0 for replica in replicas.all())
        assert all(limiter.in_flight == 0 for limiter in racer._guards.limits().values())
        await replicas.close()

    def watched(name: str, behaviour: Any, clock: Any) -> CallableEndpoint:
        async def behave(payload: bytes) -> bytes:
            record = [name, clock(), None, "cancelled"]
            seen.asked.append(record)
            try:
                answer: bytes = await behaviour(payload)
                record[3] = "answered"
                return answer
            except ModelyardError as error:
                record[3] = error
                raise
            finally:
                record[2] = clock()

        return CallableEndpoint(behave)

    random.seed(scene.seed)
    run(main())
    return seen


@settings(max_examples=400, deadline=None)
@given(scenes())
def test_every_race(scene: Scene) -> None:
    seen = play(scene)
    outcome, plan = seen.outcome, scene.plan

    # Nothing after the deadline, nor after the caller gave up.
    assert seen.ended <= scene.deadline + SLACK
    if scene.gives_up is not None and seen.outcome is None:
        assert seen.ended <= scene.gives_up + SLACK
    # Every attempt that began has ended, by the end of the race.
    assert all(ended is not None and ended <= seen.ended + SLACK for _, _, ended, _ in seen.asked)
    # One replica is asked once, unless there was no other (then only after a failure).
    for name in {record[0] for record in seen.asked}:
        times = [record for record in seen.asked if record[0] == name]
        assert all(isinstance(record[3], HostGone) for record in times[:-1])

    if outcome is None:
        assert scene.gives_up is not None
        return
    if isinstance(outcome, Answer):
        best_acceptable(scene, seen, outcome)
        return
    # An error never beats a pending success: when it was told, nothing was under way, or the
    # time was over.
    surfaced = outcome.on_failure is OnFailure.SURFACE
    if seen.ended < scene.deadline - SLACK:
        assert seen.losers == 0
        assert not any(record[3] == "answered" for record in seen.asked)
    else:
        assert surfaced or isinstance(outcome, DeadlineExceeded)
    # A default would have been given, had there been one, but to a bad request.
    assert surfaced or not any(a.kind is Kind.DEFAULT for a in plan.attempts)


def best_acceptable(scene: Scene, seen: Seen, outcome: Answer) -> None:
    """No answer that had come, counted, and was preferred, was passed over."""
    legs = {a.target: a for a in reversed(scene.plan.attempts) if a.target is not None}
    order = [a.target for a in scene.plan.attempts if a.target is not None]
    rank = {target: order.index(target) for target in legs}
    mine = rank[outcome.served_by] if outcome.served_by in rank else len(order)
    last_call = scene.deadline - min(SPARE, SPARE_SHARE * scene.deadline)
    for name, _, ended, how in seen.asked:
        version = VERSIONS[int(name[1]) - 1]
        if how != "answered" or rank[version] >= mine:
            continue
        counts = min(legs[version].accept_from, last_call)
        # A preferred answer that was there and counted strictly before: it should have won.
        assert not (ended < seen.ended - SLACK and counts < seen.ended - SLACK), (name, ended)
    if isinstance(outcome.served_by, VersionName):
        answered = {r[0].encode(): r for r in seen.asked if r[3] == "answered"}
        assert outcome.payload in answered
        # It counted from its moment on, or nothing better could come.
        moment = min(legs[outcome.served_by].accept_from, last_call)
        better = [
            r for r in seen.asked if rank[VERSIONS[int(r[0][1]) - 1]] < mine and r[3] == "cancelled"
        ]
        assert seen.ended >= moment - SLACK or not better


@settings(max_examples=100, deadline=None)
@given(scenes())
def test_the_same_seed_gives_the_same_trace(scene: Scene) -> None:
    def trace(seen: Seen) -> object:
        told = seen.outcome
        shown = told if isinstance(told, Answer | None) else (type(told), str(told))
        return shown, seen.ended, [(r[0], r[1], r[2]) for r in seen.asked]

    assert trace(play(scene)) == trace(play(scene))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(tempers, min_size=1, max_size=3),
    st.floats(0.01, 0.5),
    st.integers(1, 60),
)
def test_the_budget_is_never_overspent(found: list[Temper], share: float, calls: int) -> None:
    """Hedges stay within their share of the calls, and hedges and retries within the whole."""
    meter = Meter()

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        endpoints = {
            f"h{i}": CallableEndpoint(
                answers(b"!", t.after) if t.error is None else fails(lambda k=t.error: k("no"))
            )
            for i, t in enumerate(found)
        }
        replicas = replicas_of(endpoints, clock)
        replicas.update([host(name, VERSIONS[0]) for name in endpoints])
        racer = racer_of(replicas, clock, meter)
        plan = direct(VERSIONS[0], 3, Hedge(share, timedelta(milliseconds=1)))

        async def one(index: int) -> None:
            await asyncio.sleep(index * 0.01)
            call = Call(MODEL, "", b"", clock() + 2.0, "r", target=VERSIONS[0])
            try:
                await racer.run(call, plan)
            except ModelyardError:
                return

        await asyncio.gather(*(one(index) for index in range(calls)))
        await racer.close()
        await replicas.close()

    run(main())
    tally = meter.of((MODEL, 1))
    hedges = tally.of(Kind.HEDGE).started
    retries = tally.of(Kind.RETRY).started
    assert hedges <= share * calls
    assert hedges + retries <= max(share, 0.2) * calls + 100
    for kind in Kind:
        counted = tally.of(kind)
        assert counted.started == counted.won + counted.failed + counted.cancelled
