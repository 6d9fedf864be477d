"""The parent of several gateway processes: it owns the port, and answers no call itself.

It starts the workers, then an Envoy that spreads calls over them, and keeps both until it is told
to end. Then it drains at the port, where callers are, and ends the workers last. However it goes,
none of its processes outlives it.
"""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

import grpc
import structlog

from gateway.fronts.behind import folder
from gateway.fronts.envoy.admin import Admin, NoAnswer
from gateway.fronts.envoy.parts import Front, Json
from gateway.fronts.envoy.process import command, front_of
from gateway.settings import GatewaySettings
from gateway.workers import config
from gateway.workers.group import Group
from gateway.workers.keeper import START, Keeper, Run
from gateway.workers.merging import Merged, Told
from modelyard.errors import FailedPrecondition
from modelyard.gateway.v1 import worker_service_pb2 as pb
from modelyard.gateway.v1 import worker_service_pb2_grpc as pb_grpc
from modelyard.server import Server, signals
from modelyard.telemetry import Metrics
from modelyard.yard import tether

_log = structlog.get_logger(__name__)

# A worker that does not tell its metrics in time is left out, in seconds.
_PATIENCE: Final = 2.0


async def run(
    settings: GatewaySettings, worker: Run, services: tuple[str, ...], *, rest: bool
) -> int:
    """Serves until a signal; gives the exit code. A second signal ends all at once.

    Args:
        settings: The gateway's.
        worker: Runs one worker process once.
        services: The full names of those that health is asked of.
        rest: Whether the workers answer more than gRPC.

    Raises:
        FailedPrecondition: The address cannot be listened on, or no worker serves.
    """
    front = front_of(settings)
    async with signals(again=lambda: serving.cancel()) as ending:
        parent = _Parent(settings, worker, services)
        serving = asyncio.create_task(parent.serve(front, rest, ending))
        try:
            return await serving
        except asyncio.CancelledError:
            return 1


class _Parent:
    def __init__(self, settings: GatewaySettings, worker: Run, services: tuple[str, ...]) -> None:
        self._settings = settings
        self._worker = worker
        self._services = services
        self._changed = asyncio.Event()
        self._keepers: list[Keeper] = []

    async def serve(self, front: Front, rest: bool, ending: asyncio.Event) -> int:
        settings = self._settings
        async with AsyncExitStack() as ends:
            files = config.Files(ends.enter_context(folder()), settings.workers)
            self._keepers = [self._keeper(files, i) for i in range(settings.workers)]
            for keeper in self._keepers:
                ends.push_async_callback(keeper.close)
            if settings.metrics_listen:
                merged = Merged(self._ask, asyncio.get_running_loop())
                metrics = Metrics(settings.metrics_listen, [merged], process=False)
                # In a thread: a scrape under way needs this loop to end.
                ends.push_async_callback(asyncio.to_thread, metrics.close)
            # It answers Envoy alone, and of health alone.
            server = Server(_behind(settings, f"unix:{files.parent}"), self._services)
            ends.push_async_callback(server.stop, at_once=True)
            await server.start()
            keeping = [asyncio.create_task(keeper.keep()) for keeper in self._keepers]
            ends.push_async_callback(_end, keeping)
            over = asyncio.create_task(ending.wait())
            ends.push_async_callback(_end, [over])
            await self._served(keeping, over)
            if ending.is_set():
                return 0
            envoy = await _start(files, config.bootstrap(files, front, rest))
            ends.push_async_callback(_kill, envoy)
            admin = Admin(files.admin)
            gone = asyncio.create_task(envoy.wait())
            opened = asyncio.create_task(admin.opened(settings.listen))
            await asyncio.wait((gone, opened), return_when=asyncio.FIRST_COMPLETED)
            if not opened.done():
                opened.cancel()
                raise FailedPrecondition(f"Envoy ended with {gone.result()} before it listened")
            address = opened.result()
            telling = asyncio.create_task(self._tell(server))
            ends.push_async_callback(_end, [telling])
            _log.info("serving", address=address, workers=settings.workers)
            await asyncio.wait((over, gone), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                _log.error("Envoy ended", code=gone.result())
                return 1
            _log.info("draining")
            await server.leave()
            with suppress(NoAnswer):
                await admin.leave(files.pressure)
            # Who only watches health holds nothing up.
            server.health.close()
            await admin.left(settings.drain_grace)
            # No connection of Envoy's is in the way of the workers' own drains.
            await _kill(envoy)
            for keeper in self._keepers:
                keeper.ending.set()
            await asyncio.gather(*keeping)
            return 0

    def _keeper(self, files: config.Files, index: int) -> Keeper:
        sockets = tuple(f"unix:{path}" for path in files.sockets)
        settings = _behind(self._settings, sockets[index])
        return Keeper(self._worker, settings, Group(index, sockets), self._wake)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _served(self, keeping: list[asyncio.Task[None]], over: asyncio.Task[bool]) -> None:
        """Returns when all workers serve, or some do and time is up, or it shall end.

        Raises:
            FailedPrecondition: A worker is given up, or none serves in time.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.first_view + START
        while not over.done() and not all(keeper.serves for keeper in self._keepers):
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait(
                (*keeping, over, changed),
                timeout=until - loop.time(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            changed.cancel()
            for task in keeping:
                if task.done():
                    task.result()
            if loop.time() >= until:
                if any(keeper.serves for keeper in self._keepers):
                    return
                raise FailedPrecondition("no worker serves in time; the log says why")

    async def _tell(self, server: Server) -> None:
        """Says by health, from now on, whether a worker serves."""
        while True:
            changed = self._changed
            await server.serving(any(keeper.serves for keeper in self._keepers))
            await changed.wait()

    async def _ask(self) -> Told:
        """The metrics of every worker that answers."""

        async def one(keeper: Keeper) -> Told:
            stub = pb_grpc.WorkerServiceStub(keeper.channel)
            try:
                answer = await stub.GetMetrics(pb.GetMetricsRequest(), timeout=_PATIENCE)
            except grpc.aio.AioRpcError:
                return []
            return [(keeper.index, answer.process, answer.text.decode())]

        answers = await asyncio.gather(*(one(keeper) for keeper in self._keepers))
        return [told for answer in answers for told in answer]


def _behind(settings: GatewaySettings, listen: str) -> GatewaySettings:
    """The settings of a server behind Envoy, to which Envoy alone speaks."""
    return settings.model_copy(
        update={
            "listen": listen,
            "metrics_listen": "",
            "workers": 1,
            "tls_cert": None,
            "tls_key": None,
            "tls_client_ca": None,
            "max_connection_age": 0.0,
        }
    )


async def _start(files: config.Files, told: Json) -> asyncio.subprocess.Process:
    files.bootstrap.write_text(json.dumps(told), encoding="utf-8")
    files.pressure.write_text("0", encoding="utf-8")
    # A thread of Envoy for each worker carries a little more than a worker answers.
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", tether.__file__, str(os.getpid())),
        *command(files.bootstrap, files.workers),
        process_group=0,
    )


async def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
