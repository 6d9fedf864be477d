"""Makes one attempt: a place at its version, a replica, the call, and what became of it."""

import asyncio
from collections.abc import Callable, Coroutine

from opentelemetry.trace import SpanKind

from gateway.call import INFER, Call, Made, Metadata
from gateway.guards import Guards
from gateway.meter import Meter
from gateway.plan import Attempt
from gateway.replicas import Replica, Replicas
from modelyard.errors import Internal, ModelyardError, SequenceLost, VersionNotServing
from modelyard.metadata import TARGET
from modelyard.names import VersionName
from modelyard.telemetry import Tracing

# A call to a version whose only host is being started waits for it, at most so many seconds.
PATIENCE = 5.0
# A replica that failed this call gets it again, if no other came, after so many seconds.
SECOND_CHANCE = 1.0
# How gRPC counts attempts for servers (gRFC A6).
PREVIOUS_ATTEMPTS = "grpc-previous-rpc-attempts"


class Attempter:
    """Makes attempts.

    Args:
        replicas: Where they go.
        guards: Give room, and are told how each one ended.
        meter: Counts them.
        clock: Seconds, monotonic; the clock of every deadline.
        tracing: Makes a span of each; None for no spans.
    """

    def __init__(
        self,
        replicas: Replicas,
        guards: Guards,
        meter: Meter,
        clock: Callable[[], float],
        tracing: Tracing | None = None,
    ) -> None:
        self._replicas = replicas
        self._guards = guards
        self._meter = meter
        self._clock = clock
        self._tracing = tracing

    def make(
        self,
        call: Call,
        attempt: Attempt,
        size: int,
        tried: list[Replica],
        previous: int,
        patient: bool = True,
    ) -> Coroutine[None, None, bytes]:
        """Makes one attempt on a replica that none before it took.

        Args:
            call: The call; its deadline is set.
            attempt: The attempt; it has a target.
            size: The class of the payload's size.
            tried: The replicas that were asked for this call; the one that is asked now joins.
            previous: Attempts that were made before.
            patient: Waits for a host that is on its way; for a call that has no other way.

        Raises:
            VersionNotServing: No host serves the version, and none is on its way.
            Overloaded: The version has as many attempts as it can answer in time.
            SequenceLost: The host that held the call's sequence is gone.
            ModelyardError: What the host answered.
        """
        if call.trail is None:
            return self._make(call, attempt, size, tried, previous, patient)
        assert attempt.target is not None, "a default asks nobody"
        made = Made(attempt.target, attempt.kind, self._clock())
        call.trail.append(made)
        return self._recorded(made, call, attempt, size, tried, previous, patient)

    async def _recorded(
        self,
        made: Made,
        call: Call,
        attempt: Attempt,
        size: int,
        tried: list[Replica],
        previous: int,
        patient: bool,
    ) -> bytes:
        """The same, and what became of it."""
        try:
            payload = await self._make(call, attempt, size, tried, previous, patient, made)
            made.outcome = "answered"
            return payload
        except asyncio.CancelledError:
            made.outcome = "cancelled"
            raise
        except ModelyardError as error:
            made.outcome, made.error = "failed", error.reason
            raise
        finally:
            made.ended = self._clock()

    async def _make(
        self,
        call: Call,
        attempt: Attempt,
        size: int,
        tried: list[Replica],
        previous: int,
        patient: bool,
        made: Made | None = None,
    ) -> bytes:
        target, clock, guards = attempt.target, self._clock, self._guards
        assert target is not None, "a default asks nobody"
        assert call.deadline is not None, "the deadline stands before the race"
        limiter = guards.limiter(target)
        inside = False
        try:
            if limiter.has_room:
                limiter.in_flight += 1
            else:
                await limiter.enter(call.priority, call.deadline - clock())
            inside = True
            replica = self._replicas.find(target, tried)
            if call.host:
                replica = self._pinned(target, call)
            elif replica is None or (tried and replica in tried):
                if not patient:
                    raise _not_serving(target)
                replica = await self._wait_for_host(target, call.deadline, tried)
        except BaseException:
            # No host was asked: another call may try in this one's place.
            guards.circuits.gave_up(target)
            if inside:
                limiter.leave()
            raise
        tried.append(replica)
        if made is not None:
            made.host = replica.host
        self._meter.started(target, attempt.kind)
        load = replica.load
        load.pending += 1
        began = clock()
        metadata: Metadata = (*call.metadata, (TARGET, str(target)))
        if previous:
            metadata = (*metadata, (PREVIOUS_ATTEMPTS, str(previous)))
        try:
            left = call.deadline - began
            if self._tracing is None:
                payload = await replica.endpoint.call(INFER, call.payload, metadata, left)
            else:
                payload = await self._traced(self._tracing, replica, attempt, call, metadata, left)
        except asyncio.CancelledError:
            now = clock()
            self._meter.cancelled(target, attempt.kind)
            guards.cancelled(replica, size, now - began, now)
            raise
        except ModelyardError as error:
            now = clock()
            self._meter.attempt_failed(target, attempt.kind)
            guards.failed(replica, size, error, now - began, now)
            raise
        except Exception as error:
            # A defect in a lane must not end a race that another attempt can win.
            self._meter.attempt_failed(target, attempt.kind)
            guards.circuits.gave_up(target)
            raise Internal(f"{type(error).__name__} in an attempt") from error
        finally:
            load.pending -= 1
            limiter.leave()
        now = clock()
        guards.answered(replica, size, now - began, now)
        return payload

    async def _traced(
        self,
        tracing: Tracing,
        replica: Replica,
        attempt: Attempt,
        call: Call,
        metadata: Metadata,
        timeout: float,
    ) -> bytes:
        """The call, in a span of its own that the host's hangs below."""
        about = {
            "modelyard.attempt": str(attempt.kind),
            "modelyard.version": str(replica.version),
            "modelyard.host": replica.host,
        }
        name = f"attempt {attempt.kind}"
        with tracing.span(name, metadata, SpanKind.CLIENT, about) as (_, passed):
            return await replica.endpoint.call(INFER, call.payload, passed, timeout)

    def _pinned(self, target: VersionName, call: Call) -> Replica:
        """The replica that a sequence lives on."""
        for replica in self._replicas.of(target):
            if replica.host == call.host:
                return replica
        raise SequenceLost(
            f"the host that held the sequence of '{target.model}' is gone", model=target.model
        )

    async def _wait_for_host(
        self, target: VersionName, deadline: float, tried: list[Replica]
    ) -> Replica:
        """Waits for a replica that was not tried, if one is on its way and there is time."""
        began = self._clock()
        until = min(deadline, began + PATIENCE)
        while (now := self._clock()) < until:
            replica = self._replicas.find(target, tried)
            if replica is not None and (replica not in tried or now >= began + SECOND_CHANCE):
                return replica
            # A host that has just died is still thought to serve: it was tried, so it counts.
            was_here = any(replica.version == target for replica in tried)
            if not (was_here or self._replicas.expects(target)):
                break
            await self._replicas.changed(min(until - now, SECOND_CHANCE))
        raise _not_serving(target)


def _not_serving(target: VersionName) -> VersionNotServing:
    return VersionNotServing(
        f"Request for unknown model: '{target.model}' version {target.number}"
        " is not at ready state",
        model=target.model,
        version=str(target.number),
    )
