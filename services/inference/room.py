"""Puts the supervisor together, runs it, and ends it in order."""

import asyncio
import fcntl
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import structlog

from modelyard.catalog import Catalog
from modelyard.catalog.follow import CatalogFollower
from modelyard.channels import open_channel
from modelyard.errors import FailedPrecondition
from modelyard.registry.v1 import host_service_pb2, host_service_pb2_grpc
from modelyard.status import from_rpc_error
from services.inference.artifacts import ArtifactCache
from services.inference.lifecycle import Retries
from services.inference.ports import Timing
from services.inference.probes import Prober
from services.inference.processes import Launcher
from services.inference.reconcile import Policy
from services.inference.reporter import Reporter
from services.inference.saved import SavedCatalog
from services.inference.settings import InferenceSettings
from services.inference.supervisor import Supervisor
from services.inference.wants import Wants

_log = structlog.get_logger(__name__)

# A report that takes longer is given up and sent anew. In seconds.
_REPORT_TIMEOUT = 2.0
# The registry has this long to be heard before a saved catalogue counts. In seconds.
_HEARING = 2.0
# A host that drains for longer than its grace, and this, hangs. In seconds.
_DRAIN_MARGIN = 5.0


class Lock:
    """Held by the one supervisor of a run folder, until its process ends."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise FailedPrecondition(f"another supervisor works in {path.parent}") from None

    def release(self) -> None:
        """Lets another one in."""
        self._file.close()


class _Knowledge:
    """The catalogue as far as it can be relied on.

    A saved one may be old: it counts only once the registry had its time to be heard.
    """

    def __init__(self, follower: CatalogFollower, saved: bool) -> None:
        self._follower = follower
        self._known = False
        self._saved = saved

    async def learn(self) -> None:
        """Returns when the catalogue may be relied on."""
        if not await self._follower.wait_heard(_HEARING):
            _log.warning("the registry is not heard yet", saved_catalogue=self._saved)
            if not self._saved:
                while not await self._follower.wait_heard(_HEARING):
                    pass
        self._known = True

    def __call__(self) -> Catalog | None:
        return self._follower.catalog if self._known else None


def _sender(
    channel: grpc.aio.Channel,
) -> Callable[[host_service_pb2.ReportHostsRequest], Awaitable[None]]:
    stub = host_service_pb2_grpc.HostServiceStub(channel)

    async def send(request: host_service_pb2.ReportHostsRequest) -> None:
        try:
            await stub.ReportHosts(request, timeout=_REPORT_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    return send


def assemble(
    settings: InferenceSettings,
    wanted: Wants,
    reporter: Reporter,
    prober: Prober,
    cache: ArtifactCache,
) -> Supervisor:
    """The supervisor that these settings describe."""
    alive = settings.run_dir / "supervisor.alive"
    arguments = ["--alive-file", str(alive), "--orphan-grace", str(settings.orphan_grace)]
    arguments += ["--threads", str(settings.threads), "--drain-grace", str(settings.drain_grace)]
    arguments += ["--max-message-bytes", str(settings.max_message_bytes)]
    if settings.otlp_endpoint:
        arguments += ["--otlp-endpoint", settings.otlp_endpoint]
    if settings.providers:
        arguments += ["--providers", ",".join(settings.providers)]
    logs = settings.data_dir / "logs"
    return Supervisor(
        wanted=wanted,
        launcher=Launcher(
            run=settings.run_dir, logs=logs, listen=settings.host_listen, arguments=arguments
        ),
        artifacts=cache,
        probes=prober,
        reports=reporter,
        alive_file=alive,
        logs=logs,
        policy=Policy(
            replicas=settings.replicas,
            starts=settings.starts or len(os.sched_getaffinity(0)),
            load_timeout=settings.load_timeout,
            drain_timeout=settings.drain_grace + _DRAIN_MARGIN,
            misses=settings.check_misses,
        ),
        retries=Retries(settings.retry_first, settings.retry_limit),
        timing=Timing(check_every=settings.check_every),
        # Spreads load, keeps no secret.
        rng=random.Random(),
    )


class Room:
    """The supervisor with all that it needs: what it follows, and whom it tells.

    Args:
        settings: What it is told.
    """

    def __init__(self, settings: InferenceSettings) -> None:
        self._settings = settings
        self._saved = SavedCatalog(settings.data_dir / "catalog.pb")
        initial = self._saved.load()
        self._channel = open_channel(settings.registry)
        self._follower = CatalogFollower(self._channel, initial)
        self._knowledge = _Knowledge(self._follower, initial is not None)
        self._reporter = Reporter(
            _sender(self._channel), supervisor=settings.supervisor, pool=settings.pool
        )
        self._prober = Prober(open_channel, settings.check_timeout)
        self.supervisor = assemble(
            settings,
            Wants(self._knowledge, settings.models, settings.pool),
            self._reporter,
            self._prober,
            ArtifactCache(settings.artifacts, settings.cache_dir, limit=settings.cache_bytes),
        )

    async def run(self, ending: asyncio.Event) -> None:
        """Works until `ending` is set, then drains its hosts, or leaves them for the next one."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._channel.close)
            stack.push_async_callback(self._prober.forget, set())
            stack.callback(self.supervisor.leave)
            self._follower.start()
            stack.push_async_callback(self._follower.stop)
            working = asyncio.create_task(self._work())
            told = asyncio.create_task(ending.wait())
            try:
                await asyncio.wait({working, told}, return_when=asyncio.FIRST_COMPLETED)
                if not working.done() and not self._settings.leave_hosts:
                    draining = asyncio.create_task(self.supervisor.drain())
                    await asyncio.wait({working, draining}, return_when=asyncio.FIRST_COMPLETED)
                    draining.cancel()
            finally:
                told.cancel()
                # A defect ends the process; the next one adopts the hosts.
                if not working.cancel():
                    await working
                await asyncio.gather(working, return_exceptions=True)

    async def _work(self) -> None:
        def changed(catalog: Catalog) -> None:
            if self._follower.heard_at is not None:
                self._saved.offer(catalog)
            self.supervisor.wake()

        self._follower.on_change(changed)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._saved.run())
            tasks.create_task(self._reporter.run())
            tasks.create_task(self._knowledge.learn())
            tasks.create_task(self.supervisor.run())
