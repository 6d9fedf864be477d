"""Composition root: `python -m services.inference.host`.

Verifies, loads, warms and proves one version, then serves it until SIGTERM, or until its
supervisor has been gone for too long. Each stage is a JSON line on standard output; exit code
0 after a drain, 2 for a wrong flag, 3 for a fault of the artifact that no restart will mend.
"""

import asyncio
import gc
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import NoReturn

import uvloop

from modelyard import cpus, logs
from modelyard.errors import InvalidArtifact
from modelyard.inference.v2 import open_inference_pb2_grpc as pb_grpc
from modelyard.server import Server, signals
from modelyard.telemetry import Metrics, traced
from services.inference.host import stages
from services.inference.host.engine import Engine
from services.inference.host.frame_front import FrameFront
from services.inference.host.metrics import StatisticsCollector
from services.inference.host.orphan import orphaned
from services.inference.host.service import ModelService
from services.inference.host.servicer import HostServicer
from services.inference.host.session import OnnxModel, SessionSettings
from services.inference.host.settings import HostSettings, parse
from services.inference.host.verify import verify
from services.inference.host.warm import prove, synthesize, warm
from services.inference.host.workers import Workers

_log = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"

_FAULTY_ARTIFACT = 3
# A model whose made-up input fails has told nothing of its speed.
_UNKNOWN_NS = 1e9


def prepare(settings: HostSettings, threads: int) -> tuple[OnnxModel, float]:
    """The model, warm and proved, and how long a run takes (nanoseconds).

    Raises:
        InvalidArtifact: The files are not what was registered, or not a model that serves.
    """
    stages.say("verifying")
    verify(settings.artifact, settings.digest)
    stages.say("loading")
    model = OnnxModel(settings.artifact, SessionSettings(threads, settings.providers))
    stages.say("warming")
    usual = warm(model, synthesize(model.signature))
    if settings.golden is not None:
        stages.say("proving")
        usual = min(usual, warm(model, prove(model, settings.golden)))
    return model, usual if math.isfinite(usual) else _UNKNOWN_NS


async def serve(settings: HostSettings, model: OnnxModel, usual_ns: float, threads: int) -> None:
    """Serves until told to end, then finishes the calls under way."""
    async with AsyncExitStack() as ends:
        workers = Workers(settings.workers or threads, settings.queue)
        ends.callback(workers.close)
        engine = Engine(settings.version.model, model, workers, usual_ns)
        service = ModelService(settings.version, engine)
        tracing = ends.enter_context(traced("host", settings.otlp_endpoint))
        server = Server(settings, (SERVICE,), tracing)
        pb_grpc.add_GRPCInferenceServiceServicer_to_server(HostServicer(service), server.handlers)
        if settings.metrics_port:
            collector = StatisticsCollector(settings.version, engine.statistics, workers)
            metrics = Metrics(f"127.0.0.1:{settings.metrics_port}", [collector])
            ends.callback(metrics.close)
        front = None
        if settings.frames:
            front = FrameFront(service, settings.frames, settings.max_message_bytes, tracing)
        at_once = asyncio.Event()
        async with signals(again=at_once.set) as ending:
            address = await server.start()
            where = {"address": address}
            if front is not None:
                where["frames_address"] = await front.start()
            await server.serving()
            stages.say("serving", **where)
            watch = asyncio.create_task(_watch(settings, ending))
            await ending.wait()
            watch.cancel()
            stages.say("draining")
            await server.leave()
            service.draining = True
            impatient = asyncio.create_task(_stop_at(at_once, server, front))
            await _stop(server, front, settings.drain_grace)
            impatient.cancel()


async def _stop(server: Server, front: FrameFront | None, grace: float) -> None:
    """Ends both fronts side by side, so that one grace is enough."""
    fronts = [server.stop(at_once=not grace)]
    if front is not None:
        fronts.append(front.stop(grace))
    await asyncio.gather(*fronts)


async def _stop_at(at_once: asyncio.Event, server: Server, front: FrameFront | None) -> None:
    await at_once.wait()
    await _stop(server, front, 0.0)


async def _watch(settings: HostSettings, ending: asyncio.Event) -> None:
    if settings.alive_file is not None:
        await orphaned(settings.alive_file, settings.orphan_grace)
        _log.warning("no supervisor for %g s: the host ends", settings.orphan_grace)
        ending.set()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a host; gives its exit code."""
    settings = parse(argv)
    logs.configure("host")
    # The kernel hangs up on stopped processes whose parent has ended; a host outlives its
    # supervisor, stopped or not (setpgid(2), orphaned process groups).
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threads = settings.threads or cpus.available()
    try:
        model, usual_ns = prepare(settings, threads)
    except InvalidArtifact as error:
        stages.say("failed", reason=error.message)
        return _FAULTY_ARTIFACT
    except Exception as error:
        # The supervisor shows why; the traceback follows on standard error.
        stages.say("failed", reason=f"{type(error).__name__}: {error}")
        raise
    # What is loaded now lives as long as the process: the collector need not look at it.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, model, usual_ns, threads))
    return 0


def leave(code: int) -> NoReturn:
    """Ends the process.

    A thread that comes back from native code while the interpreter ends would abort the process
    (python/cpython#87135): one whose run is being stopped is not waited for, and not let come.
    """
    if threading.active_count() > 1:
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
