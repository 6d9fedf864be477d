"""Runs races: does what the referee says, and nothing else."""

import asyncio
from collections.abc import Callable

from gateway.call import INFER, Answer, Call
from gateway.plan import Kind, Plan
from gateway.referee import Accept, Fail, Phase, Race, Start, Wait, next_action
from gateway.replicas import Replica, Replicas
from modelyard.errors import HostGone, Internal, ModelyardError, VersionNotServing
from modelyard.metadata import TARGET
from modelyard.names import VersionName

# A call to a version whose only host is being started waits for it, at most so many seconds.
PATIENCE = 5.0
# A replica that failed this call gets it again, if no other came, after so many seconds.
SECOND_CHANCE = 1.0


class Racer:
    """Answers calls by their plans.

    Args:
        replicas: Where attempts go.
        clock: Seconds, monotonic; the clock of every deadline.
        on_retry: Told of each retry.
    """

    def __init__(
        self,
        replicas: Replicas,
        clock: Callable[[], float],
        on_retry: Callable[[VersionName], None] = lambda version: None,
    ) -> None:
        self._replicas = replicas
        self._clock = clock
        self._on_retry = on_retry

    async def run(self, call: Call, plan: Plan) -> Answer:
        """Runs one race; `call.deadline` is set.

        Raises:
            ModelyardError: What the referee lost the race for.
        """
        clock = self._clock
        now = clock()
        assert call.deadline is not None, "the deadline stands before the race"
        race = Race(plan, now, call.deadline)
        tried: list[Replica] = []
        pending: dict[asyncio.Task[bytes], int] = {}
        answers: dict[int, bytes] = {}
        try:
            while True:
                match next_action(race, now):
                    case Start(index):
                        if plan.attempts[index].kind is Kind.RETRY:
                            self._on_retry(plan.attempts[index].target)
                        race.phases[index] = Phase.PENDING
                        attempt = self._attempt(call, plan, index, tried)
                        if pending or not _alone(next_action(race, now), race):
                            pending[asyncio.create_task(attempt)] = index
                        else:
                            # Nothing else can happen before this ends: no task is needed.
                            try:
                                answers[index] = await attempt
                            except ModelyardError as error:
                                race.errors[index] = error
                                race.phases[index] = Phase.FAILED
                            else:
                                race.phases[index] = Phase.SUCCEEDED
                    case Accept(index):
                        won = plan.attempts[index]
                        started = sum(p is not Phase.UNSTARTED for p in race.phases)
                        return Answer(answers[index], won.target, won.kind, started)
                    case Fail(error):
                        raise error
                    case Wait(until):
                        done, _ = await asyncio.wait(
                            pending,
                            timeout=max(until - now, 0.0),
                            return_when=asyncio.FIRST_COMPLETED,
                        )
                        for task in done:
                            _record(race, answers, pending.pop(task), task)
                now = clock()
        finally:
            for task in pending:
                task.cancel()

    async def _attempt(self, call: Call, plan: Plan, index: int, tried: list[Replica]) -> bytes:
        """Makes one attempt on a replica that none before it took."""
        clock = self._clock
        target = plan.attempts[index].target
        assert call.deadline is not None, "the deadline stands before the race"
        replica = self._replicas.find(target, tried)
        if replica is None or (tried and replica in tried):
            replica = await self._wait_for_host(target, call.deadline, tried)
        tried.append(replica)
        load = replica.load
        load.pending += 1
        began = clock()
        try:
            payload = await replica.endpoint.call(
                INFER,
                call.payload,
                (*call.metadata, (TARGET, str(target))),
                call.deadline - began,
            )
        except HostGone:
            replica.failed(clock())
            raise
        finally:
            load.pending -= 1
        now = clock()
        load.observe(now - began, now)
        if replica.failures:
            replica.succeeded()
        return payload

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
            if not (tried or self._replicas.expects(target)):
                break
            await self._replicas.changed(min(until - now, SECOND_CHANCE))
        raise VersionNotServing(
            f"Request for unknown model: '{target.model}' version {target.number}"
            " is not at ready state",
            model=target.model,
            version=str(target.number),
        )


def _alone(action: object, race: Race) -> bool:
    """Tells whether the attempt just started is all there is until it ends."""
    return isinstance(action, Wait) and action.until >= race.deadline


def _record(race: Race, answers: dict[int, bytes], index: int, task: asyncio.Task[bytes]) -> None:
    """Writes down how an attempt ended."""
    if task.cancelled():
        race.errors[index] = HostGone("the attempt was cancelled")
        race.phases[index] = Phase.FAILED
        return
    error = task.exception()
    if error is None:
        answers[index] = task.result()
        race.phases[index] = Phase.SUCCEEDED
        return
    race.phases[index] = Phase.FAILED
    if isinstance(error, ModelyardError):
        race.errors[index] = error
    else:
        # A defect in a lane must not end a race that another attempt can win.
        race.errors[index] = Internal(f"{type(error).__name__} in an attempt")
