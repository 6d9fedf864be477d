"""Runs one evaluation: takes requests, has them replayed, compares, looks, keeps, until it ends."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

import structlog

from modelyard.events.sampling import share_of
from modelyard.events.v1 import event_pb2
from modelyard.names import VersionName
from services.shadow.findings import Findings
from services.shadow.judgement import look
from services.shadow.observation import Observation, Reply, rows_of
from services.shadow.pace import Pace, Rate
from services.shadow.plan import Plan
from services.shadow.read import Request
from services.shadow.truths import Awaiting, Truths

_log = structlog.get_logger(__name__)

# The gates are looked at, and what was learnt is kept, so often at most; in seconds. To keep is a
# write to the disk, which live calls feel.
LOOK_EVERY, KEEP_EVERY = 1.0, 5.0
# A host that went away is waited for so long, and then its requests fail at once.
PATIENCE = 60.0
# A replay may take so many times as long as the live call, but this long in any case.
_TIMES, _AT_LEAST = 50.0, 1.0


class Asker(Protocol):
    """Asks versions in the shadow."""

    async def ask(self, version: VersionName, payload: bytes, timeout: float) -> Reply:
        """What a version answers; a failure is an answer, too."""
        ...

    async def wait(self, version: VersionName, seconds: float) -> bool:
        """Waits until a version is served; False where it is not in time."""
        ...


class Feed(Protocol):
    """Where the events come from."""

    def batches(self) -> AsyncIterator[Sequence[event_pb2.Event]]:
        """Events, some at a time, in their order; without an end where they are live."""
        ...

    def state(self) -> dict[str, Any]:
        """How far it has come."""
        ...

    async def kept(self) -> None:
        """What was learnt from everything so far is kept: it need not come again."""
        ...


class Runner:
    """Runs one evaluation.

    Args:
        model: The model's name.
        baseline: The number of the baseline.
        plan: How to go about it.
        findings: What is known so far.
        asker: Asks the versions.
        feed: Gives events.
        read: Reads the request of an event.
        awaiting: Keeps answers until their truth comes.
        keep: Keeps what was learnt.
        until: When the evaluation ends by itself, in Unix seconds.
        share: The share of the time in which replays work; see `Pace`.
    """

    def __init__(
        self,
        *,
        model: str,
        baseline: int,
        plan: Plan,
        findings: Findings,
        asker: Asker,
        feed: Feed,
        read: Callable[[event_pb2.Event], Awaitable[Request | None]],
        awaiting: Awaiting,
        keep: Callable[[dict[str, Any]], Awaitable[None]],
        until: float,
        share: float = 1.0,
    ) -> None:
        self._model = model
        self._baseline = baseline
        self._plan = plan
        self.findings = findings
        self._asker = asker
        self._feed = feed
        self._read = read
        self._truths = Truths(awaiting, findings)
        self._keep = keep
        self._until = until
        self._kept_at = self._looked_at = 0.0
        self._pace = Pace(plan.concurrency, plan.max_rate, share)
        self._rate = Rate()
        self._absent: set[int] = set()
        self._ending = False

    def end(self) -> None:
        """Has `run` keep what was learnt, and return."""
        self._ending = True

    async def run(self) -> str | None:
        """Runs to the end; gives the reason for it, None where it was told to end.

        Raises:
            StoreUnavailable: What was learnt since the last time that it was kept will be learnt
                again.
        """
        async for events in self._feed.batches():
            await self._take(events)
            self._look_soon()
            if time.monotonic() - self._kept_at >= KEEP_EVERY or self._ending:
                await self._look_and_keep()
            if self._ending:
                return None
            if (reason := self._over()) is not None:
                await self._look_and_keep()
                return reason
        await self._look_and_keep()
        return self._over() or "the window is replayed"

    def _over(self) -> str | None:
        plan, findings = self._plan, self.findings
        if plan.canary:
            return None
        if all(judgement.final for judgement in findings.judgements.values()):
            return "every candidate has its verdict"
        if findings.tally.replayed >= plan.max_events:
            return f"{plan.max_events} requests were replayed"
        if time.time() >= self._until:
            return f"{plan.max_time} have passed"
        return None

    async def _take(self, events: Sequence[event_pb2.Event]) -> None:
        """Takes events in, in their order; their replays run side by side, within bounds."""
        tally = self.findings.tally
        under_way: list[asyncio.Task[Observation]] = []
        try:
            for event in events:
                tally.seen += 1
                if event.HasField("feedback"):
                    await self._settle(under_way)
                    await self._truths.learn(event)
                    continue
                request = None
                if self._plan.window or share_of(event.call.request_id) < self._plan.sample:
                    request = await self._read(event)
                if request is None:
                    tally.passed_over += 1
                    continue
                if tally.replayed + len(under_way) >= self._plan.max_events:
                    break
                under_way.append(asyncio.create_task(self._replay(request)))
            await self._settle(under_way)
        finally:
            for task in under_way:
                task.cancel()

    async def _settle(self, under_way: list[asyncio.Task[Observation]]) -> None:
        tally = self.findings.tally
        while under_way:
            seen = await under_way.pop(0)
            tally.replayed += 1
            tally.unpaired += seen.baseline is None
            tally.repeated += seen.repeat is not None
            tally.newest = max(tally.newest, seen.time.timestamp())
            for evidence in self.findings.evidence.values():
                evidence.observe(seen)
            if self._plan.labelled:
                await self._truths.expect(seen)
            # A candidate that hangs must not keep its own rejection waiting for a batch.
            if self._look_soon() and self._over() is not None:
                break

    async def _replay(self, request: Request) -> Observation:
        timeout = min(request.deadline, max(_AT_LEAST, _TIMES * request.seconds))
        asked = list(self.findings.evidence)
        if share_of(f"again {request.id}") < self._plan.baseline_sample:
            # Whoever comes first finds colder caches: so each comes first on half of them.
            first = share_of(f"first {request.id}") < 0.5
            asked.insert(0 if first else len(asked), self._baseline)
        replies: dict[int, Reply] = {}
        await self._pace.begin()
        try:
            for number in asked:
                replies[number] = await self._ask(number, request, timeout)
        finally:
            given = replies.values()
            worked, failed = sum(r.seconds for r in given), any(r.error for r in given)
            self._pace.end(worked, failed=failed)
        repeat = replies.pop(self._baseline, None)
        paired = request.served_by == self._baseline
        return Observation(
            request.id,
            request.time,
            request.metadata,
            request.inputs,
            request.outputs if paired else None,
            request.seconds,
            replies,
            repeat,
            rows_of(request.inputs),
            request.response,
        )

    async def _ask(self, number: int, request: Request, timeout: float) -> Reply:
        version = VersionName(self._model, number)
        # One that went away is waited for, for it may have crashed on another request; one that
        # did not come back in time fails, until it is back.
        patience = 0.0 if number in self._absent else PATIENCE
        if await self._asker.wait(version, patience):
            self._absent.discard(number)
        else:
            self._absent.add(number)
        return await self._asker.ask(version, request.payload, timeout)

    def _look_soon(self) -> bool:
        """Looks at the gates, if it is time; tells whether it was."""
        due = time.monotonic() - self._looked_at >= LOOK_EVERY
        if due:
            self._look()
        return due

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        if (rate := self._rate.measure(self.findings.tally.replayed)) is not None:
            self.findings.rate = rate
        candidates = len(self.findings.evidence)
        for number, judgement in self.findings.judgements.items():
            was = judgement.verdict
            held = self.findings.evidence[number]
            look(judgement, self._plan, held, candidates, time.time())
            if judgement.verdict is not was:
                _log.info(
                    "verdict",
                    version=f"models/{self._model}/versions/{number}",
                    verdict=judgement.verdict.value,
                    reasons=judgement.reasons[:3],
                )

    async def _look_and_keep(self) -> None:
        self._look()
        await self._keep({**self.findings.state(), "feed": self._feed.state()})
        await self._feed.kept()
        # Not before it is kept: a truth that is taken in again must find its answers again.
        await self._truths.kept()
        self._kept_at = time.monotonic()
