"""Runs a gateway whose front is in this very process, on the loop that suits it."""

import asyncio
import logging
import os
import sys

from gateway.settings import GatewaySettings
from gateway.workers.group import Group
from modelyard.server import signals


def run_front(settings: GatewaySettings, group: Group | None = None) -> int:
    """Serves until a signal; gives the exit code. Raises as `gateway.serve.serve`."""
    if settings.front == "grpcio":
        asyncio.run(_by_grpc(settings, group))
        return 0
    import uvloop

    # Less of a processor for each call than asyncio's own loop.
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        runner.run(_by_http2(settings, group))
    except BaseException:
        runner.close()
        raise
    # All that was begun has ended. What native threads would still do while the interpreter is
    # taken down is of no use to anybody, and may hang it.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def _by_grpc(settings: GatewaySettings, group: Group | None) -> None:
    # Not before: in Envoy's process another instance is the gateway, and this one only waits.
    from gateway.serve import serve

    async with signals() as ending:
        await serve(settings, ending, group=group)


async def _by_http2(settings: GatewaySettings, group: Group | None) -> None:
    from gateway.fronts.http2.front import run

    async with signals() as ending:
        await run(settings, ending, group)
