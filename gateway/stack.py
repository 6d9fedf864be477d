"""What happens to a call, and why in that order. Read from top to bottom.

Each line wraps those below it. None of them knows grpc or HTTP: a `Call` comes in from a
front, an `Answer` goes out, and attempts leave over an `Endpoint`.
"""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from opentelemetry.trace import SpanKind

from gateway.access_log import AccessLog
from gateway.call import Answer, Call
from gateway.meter import NOBODY, Meter
from gateway.plan import Plan
from gateway.race import Racer
from gateway.router import Router
from gateway.tap import Recording, Tap
from modelyard.errors import DeadlineExceeded
from modelyard.names import VersionName
from modelyard.telemetry import Tracing

INFER_SPAN = "inference.GRPCInferenceService/ModelInfer"

Service: TypeAlias = Callable[[Call], Awaitable[Answer]]
Clock: TypeAlias = Callable[[], float]
# Raises OverQuota for a caller that used up what it may have, and counts the call else.
Quota: TypeAlias = Callable[[Call], None]


def stack(
    router: Router,
    racer: Racer,
    meter: Meter,
    access: AccessLog,
    clock: Clock,
    *,
    quota: Quota | None = None,
    tap: Tap | None = None,
    tracing: Tracing | None = None,
) -> Service:
    """Builds the one path that every inference call takes."""
    # The race comes last: it needs a plan, and a moment by which it must be over. How many
    # attempts a version gets at a time is decided in it, for each attempt: a version that is
    # full must not keep a call from another one that would answer it.
    service: Service = _race(racer, router)
    # The tap stands right before the race: it records what the race was given, after the deadline
    # was set, and what came of it; calls that were turned away above are nobody's training set.
    if tap is not None:
        service = _record(service, tap)
    # One call takes one unit of its caller's quota, whatever attempts the race makes of it.
    if quota is not None:
        service = _quota(service, quota)
    # The deadline stands over everything that may wait. A call without one gets its route's:
    # "no deadline" is never passed on as infinity.
    service = _deadline(service, router, clock)
    # Counts every call and tells of those that failed, whatever became of them below.
    service = _account(service, router, meter, access, clock)
    # Outermost, so that the span covers all; left out, not idle, where nobody collects spans.
    return service if tracing is None else _trace(service, tracing)


def _trace(inner: Service, tracing: Tracing) -> Service:
    async def trace(call: Call) -> Answer:
        asked = {"modelyard.model": call.model, "modelyard.request_id": call.request_id}
        with tracing.span(INFER_SPAN, call.metadata, SpanKind.SERVER, asked) as (span, metadata):
            call.metadata = metadata
            answer = await inner(call)
            span.set_attribute("modelyard.served_by", str(answer.served_by))
            span.set_attribute("modelyard.attempt", str(answer.attempt))
            return answer

    return trace


def _account(
    inner: Service, router: Router, meter: Meter, access: AccessLog, clock: Clock
) -> Service:
    async def account(call: Call) -> Answer:
        began = clock()
        try:
            answer = await inner(call)
        except BaseException as error:  # Cancelled calls did not succeed either.
            # Callers may make names up without end: all of them are counted as one.
            known = call.model if router.knows(call.model) else NOBODY
            meter.failed((known, call.target.number if call.target else 0))
            access.failed(call, error, clock() - began)
            raise
        by, seconds = answer.served_by, clock() - began
        meter.answered((by.model, by.number if isinstance(by, VersionName) else 0), seconds)
        if access.all:
            access.answered(call, answer, seconds)
        return answer

    return account


def _deadline(inner: Service, router: Router, clock: Clock) -> Service:
    async def deadline(call: Call) -> Answer:
        now = clock()
        if call.deadline is None:
            call.deadline = now + router.default_deadline(call.model)
        elif call.deadline <= now:
            raise DeadlineExceeded("the deadline had passed when the call arrived")
        return await inner(call)

    return deadline


def _quota(inner: Service, quota: Quota) -> Service:
    async def within(call: Call) -> Answer:
        quota(call)
        return await inner(call)

    return within


def _record(inner: Service, tap: Tap) -> Service:
    async def recorded(call: Call, recording: Recording) -> Answer:
        try:
            answer = await inner(call)
        except BaseException as error:  # A caller who gave up is part of the record.
            tap.end(recording, None, error)
            raise
        tap.end(recording, answer)
        return answer

    def record(call: Call) -> Awaitable[Answer]:
        recording = tap.begin(call)
        return inner(call) if recording is None else recorded(call, recording)

    return record


def _race(racer: Racer, router: Router) -> Service:
    async def race(call: Call) -> Answer:
        # One look at the catalogue a call: a route that changes now is for the next call.
        plan: Plan = router.plan(call)
        answer = await racer.run(call, plan)
        if call.sequence is not None:
            router.began(call, answer.host)
        return answer

    return race
