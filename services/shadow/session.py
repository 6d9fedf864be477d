"""One evaluation under way: its hosts, its recording, its events, and the loop that compares."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any, TypeAlias

from modelyard.catalog import Catalog
from modelyard.errors import FailedPrecondition
from modelyard.events.payloads import Payloads
from modelyard.events.progress import Progress
from modelyard.events.reader import Reader
from modelyard.events.v1 import event_pb2
from modelyard.names import VersionName
from modelyard.shadow.v1 import evaluation_pb2
from modelyard.tasks import end
from services.shadow.convert import plan_from
from services.shadow.feed import LiveFeed, WindowFeed
from services.shadow.findings import Findings, begin, resume
from services.shadow.names import model_of
from services.shadow.plan import Plan, Window
from services.shadow.read import request_of
from services.shadow.replay import Hosts
from services.shadow.runner import Runner
from services.shadow.standing import ROUTE
from services.shadow.store import AwaitingTruth, Store
from services.shadow.yard import Yard

State = evaluation_pb2.Evaluation.State
# Whoever asks for hosts that cannot serve is told why, so often.
_LOOK_FOR_HOSTS = 1.0
# A replay under way has so long to end when its evaluation is stopped.
_HALT = 5.0

# Events of a model's archive within a window, without the first so many.
Archived: TypeAlias = Callable[[str, Window, int], AsyncIterator[Sequence[event_pb2.Event]]]
# Says how an evaluation stands now.
Tell: TypeAlias = Callable[["State.ValueType", str], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every evaluation works with.

    Attributes:
        store: Keeps them.
        redis: Of the event log.
        payloads: Large payloads of the event log; None where there are none.
        yard: Asks the registry.
        hosts: The hosts of the shadow's pool.
        catalog: Gives the catalogue as it is now.
        archived: Reads the archive; None where there is none.
        share: The share of the time in which an evaluation's replays work.
    """

    store: Store
    redis: Any
    payloads: Payloads | None
    yard: Yard
    hosts: Hosts
    catalog: Callable[[], Catalog]
    archived: Archived | None
    share: float = 1.0

    def resumed(
        self, evaluation: evaluation_pb2.Evaluation, plan: Plan, state: dict[str, Any]
    ) -> Findings:
        """What an evaluation had learnt when it was kept."""
        version = VersionName(model_of(evaluation.name), evaluation.baseline)
        return resume(state, plan, self.catalog().version(version), evaluation.candidates)


class Session:
    """Runs one evaluation.

    Args:
        evaluation: As it was asked for.
        tools: What it works with.
        tell: Is told how it stands.
        changed: Is called when there is more to report.

    Attributes:
        findings: What it has learnt; None before it runs.
        progress: How far its events are read.
    """

    def __init__(
        self,
        evaluation: evaluation_pb2.Evaluation,
        tools: Tools,
        tell: Tell,
        changed: Callable[[], None],
    ) -> None:
        self.findings: Findings | None = None
        self.progress = Progress()
        self._name = evaluation.name
        self._evaluation = evaluation
        self._tools = tools
        self._tell = tell
        self._changed = changed
        self._runner: Runner | None = None

    async def halt(self, task: "asyncio.Task[None]") -> None:
        """Ends the task that runs this; what was learnt is kept, if that can be done soon."""
        if self._runner is not None:
            self._runner.end()
            await asyncio.wait({task}, timeout=_HALT)
        await end(task)

    async def run(self) -> str | None:
        """Runs it from where it was; gives the reason of its end, None where it was halted.

        Raises:
            StoreUnavailable: A store is away; run it again.
            ModelyardError: It cannot go on.
        """
        tools, evaluation = self._tools, self._evaluation
        model, plan = model_of(self._name), plan_from(evaluation.plan)
        baseline = VersionName(model, evaluation.baseline)
        candidates = [VersionName(model, number) for number in evaluation.candidates]
        asked = [*candidates, *([baseline] if plan.baseline_sample else [])]
        for version in asked:
            await tools.yard.load(version, f"evaluation {self._name}")
        state = await tools.store.kept(self._name)
        feed = self._feed(model, plan, state)
        if isinstance(feed, LiveFeed):
            # The group exists before the tap is opened: no event of the sample is missed.
            await feed.ready()
            # A route that asked for it samples by itself, and by what it says.
            for version in candidates if evaluation.actor != ROUTE else ():
                await tools.yard.record(version, plan.sample, f"evaluation {self._name}")
        await self._wait_for_hosts(asked)
        await self._tell(State.STATE_RUNNING, "")
        if state is None:
            findings = begin(plan, tools.catalog().version(baseline), evaluation.candidates)
        else:
            findings = tools.resumed(evaluation, plan, state)
        lasts = plan.max_time.total_seconds()
        self._runner = Runner(
            model=model,
            baseline=evaluation.baseline,
            plan=plan,
            findings=findings,
            asker=tools.hosts,
            feed=feed,
            read=lambda event: request_of(event, tools.payloads),
            awaiting=AwaitingTruth(tools.redis, self._name, lasts),
            keep=self._keep,
            until=evaluation.start_time.ToDatetime(UTC).timestamp() + lasts,
            share=tools.share,
        )
        self.findings, self.progress = findings, feed.progress
        try:
            return await self._runner.run()
        finally:
            # What is not kept is not known: it will be learnt again.
            self._runner = self.findings = None

    def _feed(self, model: str, plan: Plan, state: dict[str, Any] | None) -> LiveFeed | WindowFeed:
        progress = Progress(**state["feed"]) if state is not None else Progress("$")
        if plan.window is None:
            reader = Reader(self._tools.redis, f"shadow:{self._name}", model, progress.position)
            return LiveFeed(reader, progress)
        window, archived = plan.window, self._tools.archived
        if archived is None:
            raise FailedPrecondition("this yard keeps no archive to test back on")
        done = progress.taken if state is not None else 0
        return WindowFeed(lambda skip: archived(model, window, skip), done)

    async def _keep(self, state: dict[str, Any]) -> None:
        await self._tools.store.keep(self._name, state)
        self._changed()

    async def _wait_for_hosts(self, versions: Sequence[VersionName]) -> None:
        hosts = self._tools.hosts
        for version in versions:
            while not await hosts.wait(version, _LOOK_FOR_HOSTS):
                why = hosts.why_not(version)
                reason = f"waits for a host of {version}" + (f": {why}" if why else "")
                await self._tell(State.STATE_WAITING, reason)
