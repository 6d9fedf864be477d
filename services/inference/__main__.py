"""Composition root: `python -m services.inference`.

Follows the registry and keeps the hosts that it wants. SIGTERM and SIGINT drain all hosts (with
`--leave-hosts` they go on for the next supervisor); a second one leaves them at once. Exit code 2
for a wrong setting, or when another supervisor works in the same run folder.
"""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

import structlog

from modelyard import background, logs
from modelyard.errors import FailedPrecondition
from modelyard.server import Server, signals
from modelyard.settings import load
from modelyard.telemetry import Metrics
from services.inference.metrics import HostsCollector
from services.inference.room import Lock, Room
from services.inference.settings import InferenceSettings

_log = structlog.get_logger(__name__)


async def serve(settings: InferenceSettings) -> None:
    """Works until it is told to end.

    Raises:
        FailedPrecondition: An address is taken, or a TLS file cannot be read.
    """
    at_once = asyncio.Event()
    async with AsyncExitStack() as ends, signals(again=at_once.set) as ending:
        room = Room(settings)
        # Its own server answers health and reflection; inference is the hosts'.
        server = Server(settings, ())
        if settings.metrics_listen:
            metrics = Metrics(settings.metrics_listen, [HostsCollector(room.supervisor)])
            ends.callback(metrics.close)
        address = await server.start()
        ends.push_async_callback(server.stop, at_once=True)
        await server.serving()
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(room.run(ending))
            _log.info("supervising", address=address, supervisor=settings.supervisor)

            async def end() -> None:
                await ending.wait()
                await server.leave()
                await at_once.wait()
                _log.warning("told twice: the hosts are left")
                working.cancel()

            watching = tasks.create_task(end())
            working.add_done_callback(lambda _: watching.cancel())


def main(argv: Sequence[str]) -> int:
    """Runs the supervisor; gives its exit code."""
    settings = load(InferenceSettings, argv)
    logs.configure("inference", level=settings.log_level)
    if settings.background:
        background.enter()
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = Lock(settings.run_dir / "supervisor.lock")
        try:
            asyncio.run(serve(settings))
        finally:
            lock.release()
    except FailedPrecondition as error:
        print(error.message, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
