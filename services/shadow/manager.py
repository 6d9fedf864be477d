"""The life of every evaluation: begun, run, resumed after a crash, ended, and tidied up after.

::

    WAITING ──hosts serve──▶ RUNNING ──verdicts, horizon──▶ DECIDED
       │                        │
       └────────stop────────────┴──▶ STOPPED        FAILED where it cannot go on
"""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import structlog

from modelyard.backoff import Backoff
from modelyard.errors import (
    EvaluationNotFound,
    FailedPrecondition,
    ModelyardError,
    StoreUnavailable,
    Unavailable,
)
from modelyard.events.progress import Progress
from modelyard.events.reader import Reader
from modelyard.names import VersionName
from modelyard.shadow.v1 import evaluation_pb2, report_pb2
from services.shadow.check import check_outputs, check_versions
from services.shadow.convert import filled, plan_from
from services.shadow.findings import Findings
from services.shadow.names import evaluation_name, model_of
from services.shadow.report import report_of
from services.shadow.session import Session, Tools
from services.shadow.standing import ROUTE

_log = structlog.get_logger(__name__)

State = evaluation_pb2.Evaluation.State
ACTIVE = (State.STATE_WAITING, State.STATE_RUNNING)
_BACKOFF = Backoff(first=0.2, factor=2.0, limit=10.0)
_TIDY = 3600.0
# A report is given again to who watches, so often at most.
_WATCH = 0.5


class Manager:
    """Runs evaluations.

    Args:
        tools: What they work with.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._store, self._yard, self._catalog = tools.store, tools.yard, tools.catalog
        self._evaluations: dict[str, evaluation_pb2.Evaluation] = {}
        # Those under way, each with the task that runs it.
        self._sessions: dict[str, tuple[Session, asyncio.Task[None]]] = {}
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
            if evaluation.state in ACTIVE:
                self._begin(evaluation.name)

    async def close(self) -> None:
        """Keeps and lets go of what is under way: the next service takes it up."""
        await asyncio.gather(*(s.halt(task) for s, task in list(self._sessions.values())))

    async def tidy(self, age: timedelta) -> None:
        """Forgets evaluations that ended longer ago than this, every hour; never returns."""
        while True:
            oldest = datetime.now(UTC) - age
            for evaluation in self.evaluations:
                if evaluation.state in ACTIVE or evaluation.end_time.ToDatetime(UTC) > oldest:
                    continue
                try:
                    await self._store.remove(evaluation.name)
                except StoreUnavailable:
                    break  # The next hour will do.
                del self._evaluations[evaluation.name]
            await asyncio.sleep(_TIDY)

    @property
    def evaluations(self) -> list[evaluation_pb2.Evaluation]:
        """All of them, the latest first."""
        return sorted(
            self._evaluations.values(), key=lambda e: (-e.start_time.ToNanoseconds(), e.name)
        )

    def findings(self, name: str) -> Findings | None:
        """What an evaluation that runs here has learnt."""
        session = self._sessions.get(name)
        return session[0].findings if session is not None else None

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
        check_versions(numbers, base)
        check_outputs(plan, catalog, VersionName(model, base))
        if plan.window is not None and self._tools.archived is None:
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

    async def stop(self, name: str) -> evaluation_pb2.Evaluation:
        """Stops an evaluation; one that has ended stays as it is. Raises as `get`."""
        evaluation = self.get(name)
        if evaluation.state not in ACTIVE:
            return evaluation
        if name in self._sessions:
            session, task = self._sessions[name]
            await session.halt(task)
        if self._evaluations[name].state not in ACTIVE:
            return self._evaluations[name]  # It came to its end in that moment.
        await self._ended(name, State.STATE_STOPPED, "")
        return self._evaluations[name]

    async def report(self, name: str) -> report_pb2.Report:
        """What an evaluation has found. Raises as `get`, and StoreUnavailable."""
        evaluation = self.get(name)
        plan = plan_from(evaluation.plan)
        model = model_of(name)
        found, progress = self.findings(name), Progress()
        if found is not None:
            progress = self._sessions[name][0].progress
        elif (state := await self._store.kept(name)) is not None:
            found = self._tools.resumed(evaluation, plan, state)
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
            ended = self.get(name).state not in ACTIVE
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
        async def tell(state: "State.ValueType", reason: str) -> None:
            await self._tell(name, state, reason)

        session = Session(self._evaluations[name], self._tools, tell, self._notify)
        task = asyncio.create_task(self._run(name, session), name=name)
        self._sessions[name] = (session, task)
        task.add_done_callback(lambda _: self._sessions.pop(name, None))

    async def _run(self, name: str, session: Session) -> None:
        """Runs an evaluation to its end, through whatever is away meanwhile."""
        failures = 0
        while True:
            try:
                reason = await session.run()
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
            if other.name != name and other.state in ACTIVE and model_of(other.name) == model
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
                await Reader(self._tools.redis, f"shadow:{name}", model).leave()
            except StoreUnavailable:
                _log.debug("a consumer group is left", name=name)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
