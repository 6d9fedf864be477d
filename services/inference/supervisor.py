"""Obeys `reconcile`: one loop, and one task for each host process.

Past 300 lines because a host's whole life is told here, from its start to its end, in one place.
"""

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from modelyard.errors import InvalidArgument, ModelyardError
from modelyard.names import VersionName
from services.inference import alive, lifecycle, logfiles
from services.inference.adoption import recognise
from services.inference.artifacts import Artifact
from services.inference.lifecycle import ARTIFACT_FAULT, Host, Phase, Retries
from services.inference.ports import Artifacts, Probes, Reports, Timing
from services.inference.processes import HostProcess, Launcher, Plan, describe_exit
from services.inference.reconcile import (
    Action,
    Add,
    Drain,
    Forget,
    Kill,
    Policy,
    Start,
    next_actions,
)

_log = structlog.get_logger(__name__)

# Time alone changes little: back-offs end, time-outs come. In seconds.
_TICK = 0.2


class Supervisor:
    """Keeps the hosts that are wanted.

    Args:
        wanted: What should serve, with its artifacts; None while that is not known.
        launcher: Begins processes and finds them again.
        artifacts: Brings files here.
        probes: Checks hosts.
        reports: Where the hosts are told.
        alive_file: The file that tells hosts that their supervisor lives.
        logs: The folder of the hosts' logs.
        policy: How many hosts, and how patient.
        retries: When a failed one starts again.
        timing: How often, how long.
        rng: For jitter.
    """

    def __init__(
        self,
        *,
        wanted: Callable[[], Mapping[VersionName, Artifact] | None],
        launcher: Launcher,
        artifacts: Artifacts,
        probes: Probes,
        reports: Reports,
        alive_file: Path,
        logs: Path,
        policy: Policy,
        retries: Retries,
        timing: Timing,
        rng: random.Random,
    ) -> None:
        self._wanted = wanted
        self._launcher = launcher
        self._artifacts = artifacts
        self._probes = probes
        self._reports = reports
        self._alive = alive_file
        self._logs = logs
        self._policy = policy
        self._retries = retries
        self._timing = timing
        self._rng = rng
        self._hosts: dict[str, Host] = {}
        self._processes: dict[str, HostProcess] = {}
        self._attending: dict[str, asyncio.Task[None]] = {}
        self._tasks = asyncio.TaskGroup()
        self._changed = asyncio.Event()
        self._shutdown = False
        self.restarts = 0

    @property
    def hosts(self) -> tuple[Host, ...]:
        """All hosts, as they are now."""
        return tuple(self._hosts.values())

    def counts(self) -> Mapping[Phase, int]:
        """How many hosts are in each phase."""
        found = Counter(host.phase for host in self._hosts.values())
        return {phase: found[phase] for phase in Phase}

    def wake(self) -> None:
        """Says that something changed."""
        self._changed.set()

    async def run(self) -> None:
        """Adopts what lives, then reconciles until it is cancelled.

        A defect in any task ends all of them: the next supervisor adopts the hosts.
        """
        alive.touch(self._alive)
        async with self._tasks:
            self._tasks.create_task(alive.keep(self._alive))
            await asyncio.gather(*(self._adopt(process) for process in self._launcher.find()))
            self._tasks.create_task(self._reconcile_forever())
            self._tasks.create_task(self._check_forever())

    async def drain(self) -> None:
        """Ends all hosts; `run` goes on meanwhile, and starts none."""
        self._shutdown = True
        self.wake()
        while self._hosts:
            await asyncio.sleep(0.05)
        self._reports.offer(())
        await self._reports.delivered(self._timing.report_wait)

    def leave(self) -> None:
        """Lets go of all hosts; they go on, for the next supervisor. After `run` has ended."""
        for process in self._processes.values():
            process.close()

    async def _adopt(self, process: HostProcess) -> None:
        host = await recognise(process, self._probes, time.monotonic())
        _log.info("host adopted", host=host.id, version=str(host.version), phase=host.phase.value)
        self._hosts[host.id] = host
        self._processes[host.id] = process
        self._attend_in_background(host.id, self._attend(host.id, process))

    async def _reconcile_forever(self) -> None:
        while True:
            self._changed.clear()
            self._reconcile()
            self._reports.offer(self.hosts)
            try:
                async with asyncio.timeout(_TICK):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _reconcile(self) -> None:
        wanted: Mapping[VersionName, Artifact] | None = {} if self._shutdown else self._wanted()
        if wanted is None:
            # Nothing was ever heard: whoever serves goes on.
            return
        digests = {version: artifact.digest for version, artifact in wanted.items()}
        now = time.monotonic()
        # An addition is followed by its start.
        while actions := next_actions(digests, self.hosts, now, self._policy):
            for action in actions:
                self._obey(action, wanted, now)

    def _obey(self, action: Action, wanted: Mapping[VersionName, Artifact], now: float) -> None:
        match action:
            case Add(version):
                id = secrets.token_hex(8)
                self._hosts[id] = Host(id, version, wanted[version].digest, Phase.PENDING, now)
            case Start(id):
                host = lifecycle.starting(self._hosts[id], now)
                self._hosts[id] = host
                self.restarts += host.restarts > 0
                self._attend_in_background(id, self._begin(id, wanted[host.version]))
            case Drain(id, reason):
                self._drain(id, reason, now)
            case Kill(id, reason):
                _log.warning("host killed", host=id, reason=reason)
                self._hosts[id] = lifecycle.stopping(self._hosts[id], reason, now)
                if id in self._processes:
                    self._processes[id].kill()
                else:
                    self._attending[id].cancel()
            case Forget(id):
                del self._hosts[id]

    def _drain(self, id: str, reason: str, now: float) -> None:
        host = self._hosts[id]
        self._hosts[id] = lifecycle.draining(host, reason, now)
        process = self._processes.get(id)
        if process is None:
            # Its files are still on their way.
            self._attending[id].cancel()
            return
        self._launcher.records.mark_unwanted(id)
        if host.phase is Phase.SERVING:
            self._tasks.create_task(self._give_notice(process))
        else:
            process.terminate()

    async def _give_notice(self, process: HostProcess) -> None:
        """Callers learn that the host goes before it goes."""
        self._reports.offer(self.hosts)
        await self._reports.delivered(self._timing.report_wait)
        await asyncio.sleep(self._timing.drain_notice)
        process.terminate()

    def _attend_in_background(self, id: str, work: Coroutine[None, None, None]) -> None:
        task = self._tasks.create_task(work)
        self._attending[id] = task

        def given_up(task: asyncio.Task[None]) -> None:
            if task.cancelled() and id in self._attending and id not in self._processes:
                self._end(id, permanent=False, reason="given up before it had a process")

        task.add_done_callback(given_up)

    async def _begin(self, id: str, artifact: Artifact) -> None:
        host = self._hosts[id]
        try:
            self._hosts[id] = lifecycle.at_stage(host, "fetching")
            in_use = {other.digest for other in self._hosts.values()}
            local = await self._artifacts.fetch(artifact, in_use)
            process = self._launcher.start(
                Plan(
                    id=id,
                    version=host.version,
                    digest=host.digest,
                    artifact=local.artifact,
                    golden=local.golden,
                    restarts=host.restarts,
                )
            )
        except ModelyardError as error:
            self._end(id, permanent=isinstance(error, InvalidArgument), reason=error.message)
            return
        except OSError as error:
            self._end(id, permanent=False, reason=f"no process: {error.strerror}")
            return
        self._processes[id] = process
        self._hosts[id] = replace(self._hosts[id], pid=process.pid)
        await self._attend(id, process)

    async def _attend(self, id: str, process: HostProcess) -> None:
        """Follows a process to its end."""
        reason = ""
        async for said in process.stages():
            match said:
                case {"stage": "serving", "address": address}:
                    self._hosts[id] = lifecycle.serving(
                        self._hosts[id], address, time.monotonic(), said.get("frames_address", "")
                    )
                case {"stage": "failed", "reason": reason}:
                    pass
                case {"stage": stage}:
                    self._hosts[id] = lifecycle.at_stage(self._hosts[id], stage)
            self.wake()
        code = await process.wait()
        permanent = code == ARTIFACT_FAULT
        del self._processes[id]
        process.close()
        self._launcher.clear(id)
        digest = self._hosts[id].digest
        if permanent and not any(p.record.digest == digest for p in self._processes.values()):
            # Should the fault be our copy's, the next try gets a fresh one.
            await self._artifacts.discard(digest)
        self._end(
            id,
            permanent=permanent,
            reason=reason or describe_exit(code, process.last_words()),
        )

    def _end(self, id: str, *, permanent: bool, reason: str) -> None:
        del self._attending[id]
        before = self._hosts[id]
        after = lifecycle.ended(
            before,
            permanent=permanent,
            reason=reason,
            now=time.monotonic(),
            retries=self._retries,
            rng=self._rng,
        )
        if after is None:
            del self._hosts[id]
            _log.info("host ended", host=id, version=str(before.version), why=before.reason)
        else:
            self._hosts[id] = after
            _log.warning(
                "host failed",
                host=id,
                version=str(before.version),
                reason=after.reason,
                failures=after.failures,
                again_in=round(after.retry_at - after.since, 3),
            )
        self.wake()

    async def _check_forever(self) -> None:
        while True:
            await asyncio.sleep(self._timing.check_every)
            serving = [host for host in self.hosts if host.phase is Phase.SERVING]
            answers = await asyncio.gather(
                *(self._probes.healthy(host.address) for host in serving)
            )
            for host, healthy in zip(serving, answers, strict=True):
                if (now := self._hosts.get(host.id)) and now.address == host.address:
                    self._hosts[host.id] = lifecycle.checked(now, healthy)
                    if not healthy:
                        self.wake()
            await self._probes.forget({host.address for host in self.hosts if host.address})
            await asyncio.to_thread(logfiles.trim, self._logs)
