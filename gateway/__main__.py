"""`python -m gateway`: chooses the front and serves.

SIGTERM and SIGINT drain; exit code 2 for a wrong setting or an address that is taken.
"""

import asyncio
import sys
from collections.abc import Sequence

import structlog

from gateway.fronts import envoy
from gateway.run import run_front
from gateway.settings import GatewaySettings
from modelyard import logs
from modelyard.errors import FailedPrecondition, InvalidArgument
from modelyard.settings import load

_log = structlog.get_logger(__name__)


def main(argv: Sequence[str]) -> int:
    """Runs the gateway; gives its exit code."""
    settings = load(GatewaySettings, argv)
    logs.configure("gateway", level=settings.log_level)
    try:
        if settings.workers > 1:
            return asyncio.run(_serve_by_several(settings))
        if _front(settings) == "envoy":
            from gateway.fronts.envoy import process

            return asyncio.run(process.run(settings))
        return run_front(settings)
    except (FailedPrecondition, InvalidArgument) as error:
        print(error.message, file=sys.stderr)
        return 2


def _front(settings: GatewaySettings) -> str:
    """Which front it is; raises FailedPrecondition where it cannot be had."""
    front = "http2" if settings.front == "auto" else settings.front
    if front == "envoy" and (missing := envoy.missing()):
        raise FailedPrecondition(f"front 'envoy': {missing}", field="front")
    return front


async def _serve_by_several(settings: GatewaySettings) -> int:
    """Serves by workers; raises FailedPrecondition where there is no Envoy to stand before them."""
    if missing := envoy.without_application():
        raise FailedPrecondition(f"workers {settings.workers}: {missing}", field="workers")
    from gateway import contracts
    from gateway.fronts.envoy.process import inside
    from gateway.workers import child, process

    front = _front(settings)
    worker = inside if front == "envoy" else child.run
    services = contracts.services(bool(settings.shadow))
    return await process.run(settings, worker, services, rest=front != "grpcio")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
