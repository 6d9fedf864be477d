"""The life of every evaluation: begun, run, resumed after a crash, ended, and tidied up after.

::

    WAITING ──hosts serve──▶ RUNNING ──verdicts, horizon──▶ DECIDED
       │                        │
       └────────stop────────────┴──▶ STOPPED        FAILED where it cannot go on
"""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC
from typing import Any

import structlog

from modelyard.backoff import Backoff
from modelyard.catalog import Catalog
from modelyard.errors import (
    EvaluationNotFound,
    FailedPrecondition,
    InvalidArgument,
    ModelyardError,
    StoreUnavailable,
    Unavailable,
)
from modelyard.events.payloads import Payloads
from modelyard.events.progress import Progress
from modelyard.events.reader import Reader
from modelyard.events.v1 import event_pb2
from modelyard.names import VersionName, check_model
from modelyard.shadow.v1 import evaluation_pb2, report_pb2
from services.shadow.convert import filled, plan_from
from services.shadow.feed import LiveFeed, WindowFeed
from services.shadow.plan import MOST_CANDIDATES, Plan, Window
from services.shadow.read import request_of
from services.shadow.replay import Hosts
from services.shadow.report import report_of
from services.shadow.runner import Findings, Runner, begin, resume
from services.shadow.standing import ROUTE, Known, Pair, to_start, to_stop
from services.shadow.store import AwaitingTruth, Store
from services.shadow.yard import Yard

_log = structlog.get_logger(__name__)

State = evaluation_pb2.Evaluation.State
_ACTIVE = (State.STATE_WAITING, State.STATE_RUNNING)
_BACKOFF = Backoff(first=0.2, factor=2.0, limit=10.0)
# Whoever asks for hosts that cannot serve is told why, so often.
_LOOK_FOR_HOSTS = 1.0
_LOOK_AT_ROUTES = 0.2
# A replay under way has so long to end when its evaluation is stopped.
_HALT = 5.0
# A report is given again to who watches, so often at most.
_WATCH = 0.5

# Events of a model's archive within a window, without the first so many.
Archived = Callable[[str, Window, int], AsyncIterator[Sequence[event_pb2.Event]]]


def evaluation_name(model: str, id: str) -> str:
    """`models/{model}/evaluations/{id}`."""
    return f"models/{model}/evaluations/{id}"


def model_of(name: str) -> str:
    """The model of an evaluation's name; raises InvalidArgument."""
    match name.split("/"):
        case ["models", model, "evaluations", id] if id:
            return check_model(model)
    raise InvalidArgument(f"{name!r} is not of the form models/MODEL/evaluations/ID", field="name")


class Manager:
    """Runs evaluations.

    Args:
        store: Keeps them.
        redis: Of the event log.
        payloads: Large payloads of the event log; None where there are none.
        yard: Asks the registry.
        hosts: The hosts of the shadow's pool.
        catalog: Gives the catalogue as it is now.
        archived: Reads the archive; None where there is none.
    """

    def __init__(
        self,
        *,
        store: Store,
        redis: Any,
        payloads: Payloads | None,
        yard: Yard,
        hosts: Hosts,
        catalog: Callable[[], Catalog],
        archived: Archived | None,
    ) -> None:
        self._store = store
        self._redis = redis
        self._payloads = payloads
        self._yard = yard
        self._hosts = hosts
        self._catalog = catalog
        self._archived = archived
        self._evaluations: dict[str, evaluation_pb2.Evaluation] = {}
        self._findings: dict[str, Findings] = {}
        self._feeds: dict[str, LiveFeed | WindowFeed] = {}
        self._runners: dict[str, Runner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    async def open(self) -> None:
        """Takes up what was under way; tries until the store answers."""
        failures = 0
        while True:
            try:
                held = await self._store.all()
                break
            except StoreUnavailable as error:
                failures += 1
                if failures == 1:
                    _log.warning("the store is away", error=error.message)
                await asyncio.sleep(_BACKOFF.wait(failures, random.Random()))
        for evaluation in held:
            self._evaluations[evaluation.name] = evaluation
            if evaluation.state in _ACTIVE:
                self._begin(evaluation.name)

    async def close(self) -> None:
        """Keeps and lets go of what is under way: the next service takes it up."""
        await asyncio.gather(*(self._halt(name) for name in list(self._tasks)))

    async def _halt(self, name: str) -> None:
        """Ends the task of an evaluation; what it learnt is kept, if that can be done soon."""
        task, runner = self._tasks[name], self._runners.get(name)
        if runner is not None:
            runner.end()
            await asyncio.wait({task}, timeout=_HALT)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    @property
    def evaluations(self) -> list[evaluation_pb2.Evaluation]:
        """All of them, the latest first."""
        return sorted(
            self._evaluations.values(), key=lambda e: (-e.start_time.ToNanoseconds(), e.name)
        )

    def findings(self, name: str) -> Findings | None:
        """What an evaluation that runs here has learnt."""
        return self._findings.get(name)

    def get(self, name: str) -> evaluation_pb2.Evaluation:
        """An evaluation; raises EvaluationNotFound or InvalidArgument."""
        model_of(name)
        found = self._evaluations.get(name)
        if found is None:
            raise EvaluationNotFound(f"{name} is not found", name=name)
        return found

    async def start(
        self,
        model: str,
        candidates: Sequence[str],
        baseline: str,
        plan_message: evaluation_pb2.Plan,
        *,
        actor: str,
        note: str,
        request_id: str,
    ) -> evaluation_pb2.Evaluation:
        """Starts an evaluation.

        Raises:
            InvalidArgument: A part of the plan does not fit; named.
            NotFound: There is no such model, version or label.
            FailedPrecondition: A back-test, and there is no archive.
            StoreUnavailable: It is not known to be started.
        """
        catalog = self._catalog()
        plan = plan_from(plan_message)
        numbers = [catalog.resolve(model, selector).number for selector in candidates]
        base = catalog.resolve(model, baseline or "live").number
        _check(numbers, base)
        _check_outputs(plan, catalog, VersionName(model, base))
        if plan.window is not None and self._archived is None:
            raise FailedPrecondition("this yard keeps no archive to test back on")
        name = evaluation_name(model, secrets.token_hex(4))
        if request_id:
            name = await self._store.made(request_id, name)
            if name in self._evaluations:
                return self._evaluations[name]
        evaluation = evaluation_pb2.Evaluation(
            name=name,
            candidates=numbers,
            baseline=base,
            plan=filled(plan_message, plan),
            state=State.STATE_WAITING,
            actor=actor,
            note=note,
        )
        evaluation.start_time.GetCurrentTime()
        await self._store.put(evaluation)
        self._evaluations[name] = evaluation
        self._begin(name)
        _log.info("evaluation started", name=name, candidates=numbers, baseline=base)
        return evaluation

    async def follow_routes(self) -> None:
        """Starts and stops what routes ask for by their shadows; never returns."""
        while True:
            catalog = self._catalog()
            for pair, sample in to_start(catalog, self._known()).items():
                plan = evaluation_pb2.Plan(sample=sample)
                try:
                    await self.start(
                        pair.model,
                        [str(pair.candidate)],
                        str(pair.baseline),
                        plan,
                        actor=ROUTE,
                        note="the route's shadow",
                        request_id="",
                    )
                except ModelyardError as error:
                    _log.warning("a route's shadow waits", model=pair.model, error=error.message)
            for name in to_stop(catalog, self._known()):
                await self.stop(name)
            while self._catalog() is catalog:
                await asyncio.sleep(_LOOK_AT_ROUTES)

    def _known(self) -> list[Known]:
        return [
            Known(
                e.name,
                tuple(Pair(model_of(e.name), number, e.baseline) for number in e.candidates),
                e.state in _ACTIVE,
                e.actor == ROUTE,
            )
            for e in self._evaluations.values()
        ]

    async def stop(self, name: str) -> evaluation_pb2.Evaluation:
        """Stops an evaluation; one that has ended stays as it is. Raises as `get`."""
        evaluation = self.get(name)
        if evaluation.state not in _ACTIVE:
            return evaluation
        if name in self._tasks:
            await self._halt(name)
        if self._evaluations[name].state not in _ACTIVE:
            return self._evaluations[name]  # It came to its end in that moment.
        await self._ended(name, State.STATE_STOPPED, "")
        return self._evaluations[name]

    async def report(self, name: str) -> report_pb2.Report:
        """What an evaluation has found. Raises as `get`, and StoreUnavailable."""
        evaluation = self.get(name)
        plan = plan_from(evaluation.plan)
        model = model_of(name)
        found, feed = self._findings.get(name), self._feeds.get(name)
        progress = feed.progress if feed is not None else Progress()
        if found is None:
            state = await self._store.kept(name)
            if state is not None:
                found = self._resumed(evaluation, plan, state)
                progress = Progress(**state["feed"])
        model_versions = self._catalog().models.get(model)
        digests = {
            number: version.digest
            for number, version in (model_versions.versions.items() if model_versions else ())
        }
        return report_of(evaluation, plan, found, progress, digests)

    async def watch(self, name: str) -> AsyncIterator[report_pb2.Report]:
        """The report now, and again as it changes, until the evaluation has ended."""
        last = b""
        while True:
            ended = self.get(name).state not in _ACTIVE
            report = await self.report(name)
            seen = (report.counts.seen, report.evaluation.state, report.evaluation.reason)
            if (told := repr(seen).encode()) != last:
                last = told
                yield report
            if ended:
                return
            try:
                async with asyncio.timeout(_WATCH):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _begin(self, name: str) -> None:
        task = asyncio.create_task(self._run(name), name=name)
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def _run(self, name: str) -> None:
        """Runs an evaluation to its end, through whatever is away meanwhile."""
        failures = 0
        while True:
            try:
                reason = await self._attempt(name)
                if reason is not None:
                    await self._ended(name, State.STATE_DECIDED, reason)
                return
            except (Unavailable, StoreUnavailable) as error:
                failures += 1
                _log.warning("an evaluation is held up", name=name, error=error.message)
                await asyncio.sleep(_BACKOFF.wait(min(failures, 10), random.Random()))
            except ModelyardError as error:
                _log.warning("an evaluation cannot go on", name=name, error=error.message)
                await self._ended(name, State.STATE_FAILED, error.message)
                return
            except Exception as error:
                # A defect of ours in one evaluation must not take the others with it.
                _log.exception("an evaluation failed", name=name)
                await self._ended(name, State.STATE_FAILED, f"a defect: {type(error).__name__}")
                return

    async def _attempt(self, name: str) -> str | None:
        evaluation = self._evaluations[name]
        model, plan = model_of(name), plan_from(evaluation.plan)
        baseline = VersionName(model, evaluation.baseline)
        candidates = [VersionName(model, number) for number in evaluation.candidates]
        asked = [*candidates, *([baseline] if plan.baseline_sample else [])]
        for version in asked:
            await self._yard.load(version, f"evaluation {name}")
        state = await self._store.kept(name)
        feed = self._feed(name, model, plan, state)
        if isinstance(feed, LiveFeed):
            # The group exists before the tap is opened: no event of the sample is missed.
            await feed.ready()
            # A route that asked for it samples by itself, and by what it says.
            for version in candidates if evaluation.actor != ROUTE else ():
                await self._yard.record(version, plan.sample, f"evaluation {name}")
        await self._wait_for_hosts(name, asked)
        await self._tell(name, State.STATE_RUNNING, "")
        if state is None:
            held = self._catalog().version(baseline)
            findings = begin(plan, held, evaluation.candidates)
        else:
            findings = self._resumed(evaluation, plan, state)
        self._findings[name], self._feeds[name] = findings, feed
        runner = Runner(
            model=model,
            baseline=evaluation.baseline,
            plan=plan,
            findings=findings,
            asker=self._hosts,
            feed=feed,
            read=lambda event: request_of(event, self._payloads),
            awaiting=AwaitingTruth(self._redis, name, plan.max_time.total_seconds()),
            keep=lambda held: self._keep(name, held),
            until=evaluation.start_time.ToDatetime(UTC).timestamp() + plan.max_time.total_seconds(),
        )
        self._runners[name] = runner
        try:
            return await runner.run()
        finally:
            del self._runners[name]
            self._findings.pop(name, None)
            self._feeds.pop(name, None)

    def _feed(
        self, name: str, model: str, plan: Plan, state: dict[str, Any] | None
    ) -> LiveFeed | WindowFeed:
        progress = Progress(**state["feed"]) if state is not None else Progress("$")
        if plan.window is None:
            reader = Reader(self._redis, f"shadow:{name}", model, progress.position)
            return LiveFeed(reader, progress)
        window, archived = plan.window, self._archived
        if archived is None:
            raise FailedPrecondition("this yard keeps no archive to test back on")
        done = progress.taken if state is not None else 0
        return WindowFeed(lambda skip: archived(model, window, skip), done)

    def _resumed(
        self, evaluation: evaluation_pb2.Evaluation, plan: Plan, state: dict[str, Any]
    ) -> Findings:
        model = model_of(evaluation.name)
        version = self._catalog().version(VersionName(model, evaluation.baseline))
        return resume(state, plan, version, evaluation.candidates)

    async def _keep(self, name: str, state: dict[str, Any]) -> None:
        await self._store.keep(name, state)
        self._notify()

    async def _wait_for_hosts(self, name: str, versions: Sequence[VersionName]) -> None:
        for version in versions:
            while not await self._hosts.wait(version, _LOOK_FOR_HOSTS):
                why = self._hosts.why_not(version)
                reason = f"waits for a host of {version}" + (f": {why}" if why else "")
                await self._tell(name, State.STATE_WAITING, reason)

    async def _tell(self, name: str, state: "State.ValueType", reason: str) -> None:
        evaluation = self._evaluations[name]
        if (evaluation.state, evaluation.reason) == (state, reason):
            return
        changed = evaluation_pb2.Evaluation()
        changed.CopyFrom(evaluation)
        changed.state, changed.reason = state, reason
        await self._store.put(changed)
        self._evaluations[name] = changed
        self._notify()

    async def _ended(self, name: str, state: "State.ValueType", reason: str) -> None:
        """Notes that an evaluation is over, and gives back what it held."""
        failures = 0
        changed = evaluation_pb2.Evaluation()
        changed.CopyFrom(self._evaluations[name])
        changed.state, changed.reason = state, reason
        changed.end_time.GetCurrentTime()
        while True:
            try:
                await self._store.put(changed)
                self._evaluations[name] = changed
                await self._release(name)
                break
            except (Unavailable, StoreUnavailable) as error:
                failures += 1
                _log.warning("an evaluation is not ended yet", name=name, error=error.message)
                await asyncio.sleep(_BACKOFF.wait(min(failures, 10), random.Random()))
            except ModelyardError as error:
                # The model was deleted, or its route changed under our hands: nothing to give back.
                _log.warning("an evaluation left something", name=name, error=error.message)
                break
        self._notify()
        _log.info("evaluation ended", name=name, state=State.Name(state), reason=reason)

    async def _release(self, name: str) -> None:
        evaluation, model = self._evaluations[name], model_of(name)
        others = [
            other
            for other in self._evaluations.values()
            if other.name != name and other.state in _ACTIVE and model_of(other.name) == model
        ]
        in_use = {number for other in others for number in (*other.candidates, other.baseline)}
        shadowed = {number for other in others for number in other.candidates}
        note = f"evaluation {name} has ended"
        for number in evaluation.candidates if evaluation.actor != ROUTE else ():
            if number not in shadowed and not evaluation.plan.HasField("window"):
                await self._yard.stop_recording(VersionName(model, number), note)
        for number in (*evaluation.candidates, evaluation.baseline):
            if number not in in_use:
                await self._yard.unload(VersionName(model, number), note)
        if not evaluation.plan.HasField("window"):
            try:
                await Reader(self._redis, f"shadow:{name}", model).leave()
            except StoreUnavailable:
                _log.debug("a consumer group is left", name=name)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _check(numbers: Sequence[int], baseline: int) -> None:
    if not 0 < len(numbers) <= MOST_CANDIDATES:
        raise InvalidArgument(
            f"candidates: {len(numbers)}, from 1 to {MOST_CANDIDATES}", field="candidates"
        )
    for index, number in enumerate(numbers):
        if number == baseline:
            raise InvalidArgument(
                f"candidates[{index}]: version {number} is the baseline", field="candidates"
            )
        if number in numbers[:index]:
            raise InvalidArgument(
                f"candidates[{index}]: version {number} is there already", field="candidates"
            )


def _check_outputs(plan: Plan, catalog: Catalog, baseline: VersionName) -> None:
    """Every output that the plan names is one of the baseline's."""
    outputs = [tensor.name for tensor in catalog.version(baseline).signature.outputs]
    named = [
        *((f"gates[{i}].output", g.output) for i, g in enumerate(plan.gates) if g.output),
        *((f"comparators.{name}", name) for name in plan.comparators),
        *((f"losses.{name}", name) for name in plan.losses),
    ]
    for field, name in named:
        if name not in outputs:
            raise InvalidArgument(
                f"plan.{field}: {baseline} has no output {name!r}; it has {', '.join(outputs)}",
                field=f"plan.{field}",
            )
