"""Serves the models of one process: `modelyard serve`.

The gateway's front, stack and race as `python -m gateway` puts them together, with models where
that has lanes to hosts, and a catalogue that never changes where that follows the registry.
"""

import asyncio
import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.catalogue import Catalogue
from gateway.fronts.grpc_front import InferenceFront
from gateway.metrics import TrafficCollector
from gateway.servicer import GatewayServicer
from modelyard import cpus, logs
from modelyard.gateway.v1 import gateway_service_pb2_grpc
from modelyard.inference.v2 import open_inference_pb2_grpc
from modelyard.server import Server, signals
from modelyard.settings import load as load_settings
from modelyard.telemetry import Metrics, Tracing
from services.embedded.core import Core
from services.embedded.metrics import Together
from services.embedded.models import Loaded, load
from services.embedded.settings import ServeSettings
from services.inference.host.metrics import StatisticsCollector
from services.inference.host.session import SessionSettings

_log = structlog.get_logger(__name__)

SERVICES = ("inference.GRPCInferenceService", "modelyard.gateway.v1.GatewayService")


@dataclass(frozen=True, slots=True)
class Ready:
    """Said once calls are answered.

    Attributes:
        address: Where: `host:port` or `unix:/path`.
        metrics: Where Prometheus reads, as `host:port`; "" for nowhere.
        models: What is served.
    """

    address: str
    metrics: str
    models: tuple[Loaded, ...]


def serve(
    files: Mapping[str, Path], flags: Sequence[str], announce: Callable[[Ready], object]
) -> None:
    """Serves until SIGTERM or SIGINT, then ends what has begun; a second signal ends at once.

    Args:
        files: Models' files by name.
        flags: Of `ServeSettings`; a wrong one ends the process with 2 and a line for each fault.
        announce: Told once calls are answered.

    Raises:
        InvalidArtifact: A file is no model that can be served.
        InvalidName: A name is none.
        InvalidArgument: An execution provider is not available here.
        FailedPrecondition: An address is taken, or a TLS file cannot be read.
    """
    settings = load_settings(ServeSettings, flags)
    logs.configure("serve", level=settings.log_level)
    threads = settings.threads or cpus.available()
    # Loaded before anything listens: who finds the port open is answered.
    models = load(files, SessionSettings(threads, settings.providers))
    # What is loaded now lives as long as the process: the collector need not look at it.
    gc.collect()
    gc.freeze()
    asyncio.run(_serve(models, settings, threads, announce))


async def _serve(
    models: tuple[Loaded, ...],
    settings: ServeSettings,
    threads: int,
    announce: Callable[[Ready], object],
) -> None:
    async with AsyncExitStack() as ends, signals() as ending:
        tracing = None
        if settings.otlp_endpoint:
            tracing = Tracing("serve", settings.otlp_endpoint)
            ends.callback(tracing.close)
        core = Core(
            models,
            threads,
            access_log=settings.access_log,
            deadline=settings.default_deadline,
            tracing=tracing,
        )
        ends.push_async_callback(core.close)
        began = core.clock()
        server = Server(settings, SERVICES)
        # The front comes before the servicer, which knows the same two methods by name.
        server.add_generic_rpc_handlers((InferenceFront(core.service, core.clock),))
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            Catalogue(
                lambda: core.catalog, lambda: core.hosts, lambda: True, core.replicas, channel=None
            ),
            server.handlers,
        )
        gateway_service_pb2_grpc.add_GatewayServiceServicer_to_server(
            GatewayServicer(
                *(core.meter, core.replicas, core.router, core.guards),
                *(lambda: core.catalog, lambda: began, core.clock),
            ),
            server.handlers,
        )
        where = ""
        if settings.metrics_listen:
            metrics = Metrics(settings.metrics_listen, _collectors(core))
            ends.callback(metrics.close)
            where = f"{settings.metrics_listen.rpartition(':')[0]}:{metrics.port}"
        address = await server.start()
        await server.serving()
        _log.info("serving", address=address, models=[str(m.version) for m in models])
        announce(Ready(address, where, models))
        await ending.wait()
        _log.info("draining")
        await server.drain()


def _collectors(core: Core) -> tuple[TrafficCollector, Together]:
    hosts = [
        StatisticsCollector(version, engine.statistics, core.workers[version])
        for version, engine in core.engines.items()
    ]
    return (
        TrafficCollector(core.meter, core.replicas, core.guards, core.clock),
        Together(hosts),
    )
