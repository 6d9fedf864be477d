"""Composition root: `python -m services.shadow`.

Replays sampled requests on hosts of its own and compares. SIGTERM and SIGINT let go of what is
under way: the next one goes on from what was kept, within a second. Exit code 2 for a wrong setting
or an address that is taken.
"""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta

import structlog

from modelyard import background, logs
from modelyard.catalog.follow import CatalogFollower, HostsFollower
from modelyard.catalog.hosts import SHADOW
from modelyard.channels import open_channel
from modelyard.errors import FailedPrecondition, InvalidArgument
from modelyard.events.payloads import Payloads
from modelyard.redis_client import connect
from modelyard.server import Server, signals
from modelyard.settings import load
from modelyard.shadow.v1 import shadow_service_pb2, shadow_service_pb2_grpc
from modelyard.tasks import end
from modelyard.telemetry import Metrics, traced
from services.shadow.manager import Manager
from services.shadow.metrics import EvaluationsCollector
from services.shadow.replay import Hosts
from services.shadow.routes import follow_routes
from services.shadow.servicer import ShadowServicer
from services.shadow.session import Tools
from services.shadow.settings import ShadowSettings
from services.shadow.store import Store
from services.shadow.windows import windows
from services.shadow.yard import Yard

_log = structlog.get_logger(__name__)

SERVICES = tuple(
    service.full_name for service in shadow_service_pb2.DESCRIPTOR.services_by_name.values()
)
# The registry has this long to be heard before the service opens. In seconds.
_FIRST_VIEW = 10.0


async def serve(settings: ShadowSettings) -> None:
    """Serves until told to end.

    Raises:
        FailedPrecondition: An address is taken, or a TLS file cannot be read.
        InvalidArgument: A Redis URL is of an unknown kind.
    """
    clock = asyncio.get_running_loop().time
    async with AsyncExitStack() as ends, signals() as ending:
        redis, events = connect(settings.redis), connect(settings.events)
        ends.push_async_callback(redis.aclose)
        ends.push_async_callback(events.aclose)
        channel = open_channel(settings.registry)
        ends.push_async_callback(channel.close)
        catalog, followed = CatalogFollower(channel), HostsFollower(channel, SHADOW)
        hosts = Hosts(
            lambda address: open_channel(
                address, max_message_bytes=settings.max_message_bytes, retries=False
            ),
            clock,
        )
        ends.push_async_callback(hosts.close)
        tools = Tools(
            store=Store(redis),
            redis=events,
            payloads=Payloads(settings.payloads) if settings.payloads else None,
            yard=Yard(channel),
            hosts=hosts,
            catalog=lambda: catalog.catalog,
            archived=windows(settings.archive) if settings.archive else None,
            share=settings.share,
        )
        manager = Manager(tools)
        tracing = ends.enter_context(traced("shadow", settings.otlp_endpoint))
        server = Server(settings, SERVICES, tracing)
        shadow_service_pb2_grpc.add_ShadowServiceServicer_to_server(
            ShadowServicer(manager), server.handlers
        )
        if settings.metrics_listen:
            metrics = Metrics(settings.metrics_listen, [EvaluationsCollector(manager)])
            ends.callback(metrics.close)
        address = await server.start()
        followed.on_change(hosts.update)
        catalog.start()
        ends.push_async_callback(catalog.stop)
        followed.start()
        ends.push_async_callback(followed.stop)
        await catalog.wait_heard(_FIRST_VIEW)
        opening = asyncio.create_task(manager.open())
        ended = asyncio.create_task(ending.wait())
        ends.callback(ended.cancel)
        await asyncio.wait({opening, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            await end(opening)
            return
        await opening
        routes = asyncio.create_task(follow_routes(manager, tools.catalog), name="routes")
        ends.push_async_callback(end, routes)
        tidying = asyncio.create_task(manager.tidy(timedelta(days=settings.keep_days)), name="tidy")
        ends.push_async_callback(end, tidying)
        await server.serving()
        _log.info("serving", address=address)
        await ending.wait()
        _log.info("draining")
        await end(routes)
        await manager.close()
        await server.drain()


def main(argv: Sequence[str]) -> int:
    """Runs the shadow service; gives its exit code."""
    settings = load(ShadowSettings, argv)
    logs.configure("shadow", level=settings.log_level)
    if settings.background:
        background.enter()
    try:
        asyncio.run(serve(settings))
    except (FailedPrecondition, InvalidArgument) as error:
        print(error.message, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
