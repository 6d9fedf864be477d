"""`python -m gateway`: chooses the front and serves.

SIGTERM and SIGINT drain; exit code 2 for a wrong setting or an address that is taken.
"""

import asyncio
import sys
from collections.abc import Sequence

import structlog

from gateway.fronts import envoy
from gateway.settings import GatewaySettings
from modelyard import logs
from modelyard.errors import FailedPrecondition, InvalidArgument
from modelyard.server import signals
from modelyard.settings import load

_log = structlog.get_logger(__name__)


def main(argv: Sequence[str]) -> int:
    """Runs the gateway; gives its exit code."""
    settings = load(GatewaySettings, argv)
    logs.configure("gateway", level=settings.log_level)
    try:
        if settings.workers > 1:
            return asyncio.run(_serve_by_several(settings))
        if _inside_envoy(settings):
            from gateway.fronts.envoy import process

            return asyncio.run(process.run(settings))
        return asyncio.run(_serve(settings))
    except (FailedPrecondition, InvalidArgument) as error:
        print(error.message, file=sys.stderr)
        return 2


def _inside_envoy(settings: GatewaySettings) -> bool:
    """Whether Envoy stands before; raises FailedPrecondition where it must and cannot."""
    if settings.front == "grpcio":
        return False
    missing = envoy.missing()
    if missing and settings.front == "envoy":
        raise FailedPrecondition(f"front 'envoy': {missing}", field="front")
    if missing:
        _log.info("front", front="grpcio", because=missing)
    return not missing


async def _serve_by_several(settings: GatewaySettings) -> int:
    """Serves by workers; raises FailedPrecondition where there is no Envoy to stand before them."""
    if missing := envoy.without_application():
        raise FailedPrecondition(f"workers {settings.workers}: {missing}", field="workers")
    from gateway import contracts
    from gateway.fronts.envoy.process import inside
    from gateway.workers import child, process

    within = _inside_envoy(settings)
    worker = inside if within else child.run
    services = contracts.services(bool(settings.shadow))
    return await process.run(settings, worker, services, rest=within)


async def _serve(settings: GatewaySettings) -> int:
    # Not before: in Envoy's process another instance is the gateway, and this one only waits.
    from gateway.serve import serve

    async with signals() as ending:
        await serve(settings, ending)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
