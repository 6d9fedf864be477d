"""The stack: a deadline for every call, one unit of quota whatever the race does, an account."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import structlog.testing

from gateway.access_log import AccessLog
from gateway.call import Answer, Call
from gateway.compiler import direct
from gateway.meter import NOBODY, Meter
from gateway.plan import Kind, Plan
from gateway.stack import Quota, stack
from modelyard.catalog import Hedge
from modelyard.errors import DeadlineExceeded, HostGone, ModelyardError, OverQuota
from modelyard.names import VersionName
from tests.kit.endpoints import CallableEndpoint, answers, fails, host, racer_of, replicas_of
from tests.kit.virtual_time import run

V1 = VersionName("m", 1)


class OneVersion:
    """A router that knows one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def plan(self, call: Call) -> Plan:
        call.target = V1
        return self._plan

    def knows(self, model: str) -> bool:
        return model == V1.model

    def default_deadline(self, model: str) -> float:
        return 3.0


def through(
    endpoint: Callable[[], CallableEndpoint],
    calls: list[Call],
    plan: Plan | None = None,
    quota: Quota | None = None,
    which: str = "failures",
) -> tuple[list[Answer | ModelyardError], Meter, float]:
    """Sends calls through a stack, one after the other."""
    meter = Meter()

    async def main() -> tuple[list[Answer | ModelyardError], Meter, float]:
        clock = asyncio.get_running_loop().time
        replicas = replicas_of({"a": endpoint(), "b": endpoint()}, clock)
        replicas.update([host("a", V1), host("b", V1)])
        racer = racer_of(replicas, clock, meter)
        router: Any = OneVersion(plan or direct(V1, 3))
        service = stack(router, racer, meter, AccessLog(which, clock), clock, quota=quota)
        outcomes: list[Answer | ModelyardError] = []
        for call in calls:
            try:
                outcomes.append(await service(call))
            except ModelyardError as error:
                outcomes.append(error)
        ended = clock()
        await racer.close()
        await replicas.close()
        return outcomes, meter, ended

    return run(main())


def call(deadline: float | None = None) -> Call:
    return Call("m", "", b"?", deadline, "mine")


def test_a_call_without_a_deadline_gets_its_routes() -> None:
    outcomes, _, ended = through(lambda: CallableEndpoint(answers(b"!", 100.0)), [call()])
    assert isinstance(outcomes[0], DeadlineExceeded)
    assert ended == pytest.approx(3.0)


def test_a_call_that_comes_too_late_asks_nobody() -> None:
    endpoint = CallableEndpoint(answers(b"!"))
    outcomes, meter, _ = through(lambda: endpoint, [call(deadline=0.0)])
    assert isinstance(outcomes[0], DeadlineExceeded)
    assert endpoint.begun == 0
    assert meter.of(("m", 0)).failed == 1


def test_models_that_are_not_there_are_counted_as_one() -> None:
    made_up = [Call(f"nope-{n}", "", b"?", 0.0, "mine") for n in range(3)]
    _, meter, _ = through(lambda: CallableEndpoint(answers(b"!")), made_up)
    assert {key: tally.failed for key, tally in meter.copy().items()} == {(NOBODY, 0): 3}


def test_quota_is_taken_once_a_call_whatever_its_race_does() -> None:
    asked: list[str] = []

    def two(call: Call) -> None:
        asked.append(call.model)
        if len(asked) > 2:
            raise OverQuota("two calls were yours")

    plan = direct(V1, 3, Hedge(1.0, timedelta(milliseconds=1)))
    slow = [call() for _ in range(3)]
    outcomes, meter, _ = through(
        lambda: CallableEndpoint(answers(b"!", 0.01)), slow, plan, quota=two
    )
    assert [type(outcome) for outcome in outcomes] == [Answer, Answer, OverQuota]
    assert asked == ["m"] * 3
    assert meter.of(("m", 1)).of(Kind.HEDGE).started >= 1


def test_who_failed_is_told_with_the_callers_id() -> None:
    with structlog.testing.capture_logs() as logs:
        through(lambda: CallableEndpoint(fails(lambda: HostGone("gone"))), [call()])
        through(lambda: CallableEndpoint(answers(b"!")), [call()])
    told = [(line["event"], line["request_id"], line["reason"]) for line in logs]
    assert told == [("failed", "mine", "HOST_GONE")]


def test_all_calls_are_told_where_that_is_asked_for() -> None:
    with structlog.testing.capture_logs() as logs:
        through(lambda: CallableEndpoint(answers(b"!")), [call()], which="all")
    assert [(line["event"], line["served_by"]) for line in logs] == [("answered", str(V1))]


def test_calls_are_counted_by_what_became_of_them() -> None:
    _, meter, _ = through(lambda: CallableEndpoint(answers(b"!")), [call(), call()])
    tally = meter.of(("m", 1))
    assert (tally.succeeded, tally.failed) == (2, 0)
    assert tally.of(Kind.PRIMARY).won == 2
