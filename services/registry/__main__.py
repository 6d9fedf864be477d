"""Composition root: `python -m services.registry`.

Answers once it has read its log. Reads go on while Redis is away; writes say UNAVAILABLE.
SIGTERM and SIGINT drain; exit code 2 for a wrong setting or an address that is taken.
"""

import asyncio
import hashlib
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from modelyard import logs
from modelyard.catalog import Host
from modelyard.catalog.convert import host_to, hosts_from
from modelyard.errors import FailedPrecondition, InvalidArgument
from modelyard.redis_client import connect
from modelyard.registry.v1 import (
    artifact_service_pb2,
    artifact_service_pb2_grpc,
    host_service_pb2,
    host_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    route_service_pb2,
    route_service_pb2_grpc,
)
from modelyard.server import Server, signals
from modelyard.settings import load
from modelyard.tasks import end
from modelyard.telemetry import Metrics, traced
from services.registry.artifact_servicer import ArtifactServicer
from services.registry.artifacts import ArtifactStore
from services.registry.host_servicer import HostServicer
from services.registry.hosts import Leases, RedisLeases
from services.registry.metrics import RegistryCollector
from services.registry.redis_log import RedisLog, translated
from services.registry.registry import Registry
from services.registry.route_servicer import RouteServicer
from services.registry.servicer import RegistryServicer
from services.registry.settings import RegistrySettings
from services.registry.verify import Verifier

_log = structlog.get_logger(__name__)

SERVICES = tuple(
    service.full_name
    for file in (
        registry_service_pb2.DESCRIPTOR,
        artifact_service_pb2.DESCRIPTOR,
        host_service_pb2.DESCRIPTOR,
        route_service_pb2.DESCRIPTOR,
    )
    for service in file.services_by_name.values()
)


def _encode(hosts: tuple[Host, ...]) -> bytes:
    return host_service_pb2.ListHostsResponse(hosts=map(host_to, hosts)).SerializeToString()


def _decode(held: bytes) -> tuple[Host, ...]:
    return hosts_from(host_service_pb2.ListHostsResponse.FromString(held).hosts)


def _uploads(settings: RegistrySettings) -> Path:
    """On the store's own file system where that is local, so that a finished file only moves."""
    if settings.uploads is not None:
        return settings.uploads
    if "://" not in settings.artifacts:
        return Path(settings.artifacts) / "uploads"
    key = hashlib.sha256(settings.artifacts.encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"modelyard-uploads-{key}"


async def serve(settings: RegistrySettings) -> None:
    """Serves until told to end.

    Raises:
        FailedPrecondition: An address is taken, or a TLS file cannot be read.
        InvalidArgument: The Redis URL is of an unknown kind.
    """
    async with AsyncExitStack() as ends, signals() as ending:
        redis = connect(settings.redis)
        ends.push_async_callback(redis.aclose)
        registry = Registry(RedisLog(redis))
        leases = Leases(
            RedisLeases(redis, _encode, _decode, translated), asyncio.get_running_loop().time
        )
        uploads = _uploads(settings)
        store = ArtifactStore(settings.artifacts, uploads)
        verifier = Verifier(store, uploads / "trying", settings.load_timeout)

        tracing = ends.enter_context(traced("registry", settings.otlp_endpoint))
        server = Server(settings, SERVICES, tracing)
        registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(
            RegistryServicer(registry, store, verifier, leases, frozenset(settings.url_schemes)),
            server.handlers,
        )
        artifact_service_pb2_grpc.add_ArtifactServiceServicer_to_server(
            ArtifactServicer(store, settings.largest_file), server.handlers
        )
        host_service_pb2_grpc.add_HostServiceServicer_to_server(
            HostServicer(leases), server.handlers
        )
        route_service_pb2_grpc.add_RouteServiceServicer_to_server(
            RouteServicer(registry), server.handlers
        )
        if settings.metrics_listen:
            metrics = Metrics(settings.metrics_listen, [RegistryCollector(registry, leases)])
            ends.callback(metrics.close)
        opening = asyncio.create_task(registry.open())
        ended = asyncio.create_task(ending.wait())
        ends.callback(ended.cancel)
        await asyncio.wait({opening, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            await end(opening)
            return
        await opening
        await leases.open()
        address = await server.start()
        async with asyncio.TaskGroup() as tasks:
            working = [
                tasks.create_task(registry.follow()),
                tasks.create_task(leases.run()),
            ]
            await server.serving()
            _log.info("serving", address=address, revision=registry.catalog.revision)
            await ending.wait()
            _log.info("draining")
            # No lease ends while no report can come: the gateways keep the hosts that they know.
            await end(*working)
            registry.close()
            leases.close()
            await server.drain()


def main(argv: Sequence[str]) -> int:
    """Runs the registry; gives its exit code."""
    settings = load(RegistrySettings, argv)
    logs.configure("registry", level=settings.log_level)
    try:
        asyncio.run(serve(settings))
    except (FailedPrecondition, InvalidArgument) as error:
        print(error.message, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
