"""Runs races: does what the referee says, and nothing else."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.attempts import Attempter
from gateway.call import Answer, Answerer, Call
from gateway.defaults import Defaults
from gateway.guards import Guards
from gateway.latency import size_class
from gateway.meter import Meter
from gateway.plan import Attempt, Kind, Plan
from gateway.referee import Accept, Action, Fail, Failure, Phase, Race, Start, Wait, next_action
from gateway.replicas import Replica, Replicas
from modelyard.errors import ModelyardError, VersionNotServing
from modelyard.telemetry import Tracing


@dataclass(slots=True)
class _Run:
    """One race under way: what the referee sees, and what it need not."""

    call: Call
    plan: Plan
    race: Race
    size: int
    tried: list[Replica] = field(default_factory=list)
    pending: dict[asyncio.Task[bytes], int] = field(default_factory=dict)
    answers: dict[int, tuple[bytes, Answerer]] = field(default_factory=dict)
    started: int = 0
    median: float = 0.0
    won: int = -1
    woken: "asyncio.Future[None] | None" = None

    def wake(self, _: object = None) -> None:
        """Ends a wait: an attempt has ended, or the time has come."""
        if self.woken is not None and not self.woken.done():
            self.woken.set_result(None)


class Racer:
    """Answers calls by their plans.

    Args:
        replicas: Where attempts go.
        guards: Asked before each attempt, and told how it ended.
        defaults: Answers where no host does.
        meter: Counts attempts.
        clock: Seconds, monotonic; the clock of every deadline.
        tracing: Makes a span of each attempt; None for no spans.
    """

    def __init__(
        self,
        replicas: Replicas,
        guards: Guards,
        defaults: Defaults,
        meter: Meter,
        clock: Callable[[], float],
        tracing: Tracing | None = None,
    ) -> None:
        self._replicas = replicas
        self._guards = guards
        self._defaults = defaults
        self._meter = meter
        self._clock = clock
        self._attempter = Attempter(replicas, guards, meter, clock, tracing)
        self._losers: set[asyncio.Task[bytes]] = set()

    async def run(self, call: Call, plan: Plan) -> Answer:
        """Runs one race; `call.deadline` is set.

        Raises:
            ModelyardError: What the referee lost the race for.
        """
        now = self._clock()
        assert call.deadline is not None, "the deadline stands before the race"
        size = size_class(len(call.payload))
        self._guards.budget(call.model).deposit(now)
        tried: list[Replica] = []
        failure: Failure | None = None
        if not plan.timed:
            # Nothing can happen before the first attempt ends, and its answer always wins: no
            # referee is asked before it has failed.
            first = plan.attempts[0]
            assert first.target is not None, "a plan begins with a version"
            try:
                payload = await self._attempter.make(call, first, size, tried, 0)
            except ModelyardError as lost:
                failure = Failure(lost, self._clock(), lost.pushback or 0.0)
            else:
                self._meter.won(first.target, first.kind)
                return Answer(payload, first.target, first.kind, 1, tried[-1].host)
        race = Race(plan, now, call.deadline)
        run = _Run(call, plan, race, size, tried)
        if failure is not None:
            race.phases[0], race.failures[0], run.started = Phase.FAILED, failure, 1
            now = failure.at
        if plan.hedge is not None:
            self._set_hedge(run, now)
        try:
            action = next_action(race, now)
            while True:
                match action:
                    case Start(index):
                        known = await self._start(run, index, now)
                        if known is not None:
                            action = known
                            continue
                    case Accept(index):
                        return self._accept(run, index, now)
                    case Fail(error):
                        raise error
                    case Wait(until):
                        await self._wait(run, until - now)
                now = self._clock()
                action = next_action(race, now)
        finally:
            if run.plan.timed:
                self._end(run)

    def _end(self, run: _Run) -> None:
        """Ends what has lost. Nobody waits for it: it ends in the background, down to its host."""
        for task, index in run.pending.items():
            if task.done() and not task.cancelled() and task.exception() is None:
                # It answered in the very turn in which another one won.
                run.race.phases[index] = Phase.SUCCEEDED
                continue
            task.cancel()
            self._losers.add(task)
            task.add_done_callback(self._reap)
        for index, phase in enumerate(run.race.phases):
            if phase is Phase.SUCCEEDED and index != run.won:
                attempt = run.plan.attempts[index]
                number = attempt.target.number if attempt.target is not None else 0
                self._meter.cancelled((run.call.model, number), attempt.kind)

    def _reap(self, loser: asyncio.Task[bytes]) -> None:
        self._losers.discard(loser)
        if not loser.cancelled():
            loser.exception()  # Looked at, so that asyncio does not tell of it: nobody cares.

    async def close(self) -> None:
        """Returns when every loser has ended."""
        await asyncio.gather(*self._losers, return_exceptions=True)

    @property
    def losers(self) -> int:
        """Attempts that were cancelled and have not ended yet."""
        return len(self._losers)

    def _set_hedge(self, run: _Run, now: float) -> None:
        target, hedge = run.plan.attempts[0].target, run.plan.hedge
        assert target is not None, "a route begins with a version"
        assert hedge is not None, "asked for"
        trigger = self._guards.trigger(target, run.size, hedge, now)
        if trigger is not None:
            run.race.hedge_at = now + trigger.delay
            run.median = trigger.median

    async def _start(self, run: _Run, index: int, now: float) -> Action | None:
        """Starts an attempt, or writes down why it is not made.

        Returns:
            What the referee says then, where that was asked already.
        """
        attempt, race = run.plan.attempts[index], run.race
        if attempt.kind is Kind.DEFAULT:
            self._default(run, index, now)
            return None
        if attempt.kind is not Kind.PRIMARY or run.plan.alternatives:
            refused = self._refused(run, attempt, now)
            if refused is not None:
                race.phases[index] = refused
                if refused is Phase.FAILED:
                    error = VersionNotServing(
                        f"{attempt.target} fails too often and is left alone for a while"
                    )
                    race.failures[index] = Failure(error, now)
                return None
        race.phases[index] = Phase.PENDING
        previous, run.started = run.started, run.started + 1
        # Who has another way does not wait for a host that may come.
        patient = attempt.leg == run.plan.attempts[-1].leg
        action = next_action(race, now) if run.plan.timed else None
        if run.pending or (action is not None and not _alone(action, race)):
            task = asyncio.create_task(self._make(run, attempt, previous, patient))
            run.pending[task] = index
            return action
        # Nothing else can happen before this ends: no task is needed.
        try:
            payload = await self._attempter.make(
                run.call, attempt, run.size, run.tried, previous, patient
            )
        except ModelyardError as error:
            _failed(race, index, error, self._clock())
        else:
            assert attempt.target is not None, "only a default has none"
            run.answers[index] = (payload, attempt.target)
            race.phases[index] = Phase.SUCCEEDED
        return None

    async def _make(self, run: _Run, attempt: Attempt, previous: int, patient: bool) -> bytes:
        try:
            return await self._attempter.make(
                run.call, attempt, run.size, run.tried, previous, patient
            )
        finally:
            # By itself, not by a callback of its task, which would cost a turn of the loop.
            run.wake()

    def _refused(self, run: _Run, attempt: Attempt, now: float) -> Phase | None:
        """What becomes of an attempt that the guards do not let start; None for one they do."""
        assert attempt.target is not None, "a default is not guarded"
        target, budget = attempt.target, self._guards.budget(run.call.model)
        match attempt.kind:
            case Kind.RETRY:
                if not budget.take_retry(now):
                    self._meter.exhausted(target)
                    return Phase.SKIPPED
            case Kind.HEDGE:
                hedge = run.plan.hedge
                assert hedge is not None, "planned"
                replica = self._replicas.find(target, run.tried)
                if (
                    replica is None
                    or replica in run.tried
                    or replica.rests_until > now
                    or run.race.deadline - now <= run.median
                    or not self._guards.limiter(target).has_room
                ):
                    return Phase.SKIPPED
                if not budget.take_hedge(now, hedge.max_extra_load):
                    self._meter.exhausted(target)
                    return Phase.SKIPPED
            case _:
                if run.plan.alternatives and not self._guards.circuits.allows(target, now):
                    return Phase.FAILED
        return None

    def _default(self, run: _Run, index: int, now: float) -> None:
        race, attempt = run.race, run.plan.attempts[index]
        self._meter.started((run.call.model, 0), Kind.DEFAULT)
        try:
            run.answers[index] = self._defaults.answer(run.call, attempt)
            race.phases[index] = Phase.SUCCEEDED
        except ModelyardError as error:
            # A default that cannot be given is no news to a caller whose version failed.
            self._meter.attempt_failed((run.call.model, 0), Kind.DEFAULT)
            if any(phase is Phase.FAILED for phase in race.phases):
                race.phases[index] = Phase.SKIPPED
            else:
                _failed(race, index, error, now)

    async def _wait(self, run: _Run, seconds: float) -> None:
        # What `asyncio.wait` does, for tasks that tell by themselves when they end.
        done = [task for task in run.pending if task.done()]
        if not done:
            loop = asyncio.get_running_loop()
            run.woken = loop.create_future()
            timer = loop.call_later(max(seconds, 0.0), run.wake)
            try:
                await run.woken
            finally:
                timer.cancel()
            done = [task for task in run.pending if task.done()]
        for task in done:
            index = run.pending.pop(task)
            error = task.exception()
            if error is None:
                target = run.plan.attempts[index].target
                assert target is not None, "only a default has none"
                run.answers[index] = (task.result(), target)
                run.race.phases[index] = Phase.SUCCEEDED
            elif isinstance(error, ModelyardError):
                _failed(run.race, index, error, self._clock())
            else:
                raise error

    def _accept(self, run: _Run, index: int, now: float) -> Answer:
        plan, race = run.plan, run.race
        run.won, won = index, plan.attempts[index]
        payload, answerer = run.answers[index]
        number = won.target.number if won.target is not None else 0
        self._meter.won((run.call.model, number), won.kind)
        if won.kind in (Kind.FALLBACK, Kind.DEFAULT):
            for other, phase in zip(plan.attempts[:index], race.phases, strict=False):
                if phase is Phase.PENDING and other.kind is not Kind.HEDGE and other.target:
                    waited = now - race.began
                    self._guards.overtaken(other.target, run.size, waited, now)
        else:
            for key in plan.remember:
                self._defaults.remember(run.call, key, payload, answerer)
        host = run.tried[-1].host if run.started == 1 else ""
        return Answer(payload, answerer, won.kind, run.started, host)


def _alone(action: Action, race: Race) -> bool:
    """Tells whether the attempt just started is all there is until it ends."""
    return isinstance(action, Wait) and action.until >= race.deadline


def _failed(race: Race, index: int, error: ModelyardError, now: float) -> None:
    """Writes down how an attempt failed."""
    race.phases[index] = Phase.FAILED
    race.failures[index] = Failure(error, now, error.pushback or 0.0)
