"""Composition root: `python -m services.inference`.

Follows the registry and keeps the hosts that it wants. SIGTERM and SIGINT drain all hosts (with
`--leave-hosts` they go on for the next supervisor); a second one leaves them at once. Exit code 2
for a wrong setting, or when another supervisor works in the same run folder.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence

import structlog

from modelyard import logs
from modelyard.errors import FailedPrecondition
from services.inference import metrics
from services.inference.front import Front
from services.inference.room import Lock, Room
from services.inference.settings import InferenceSettings, load

_log = structlog.get_logger(__name__)


async def serve(settings: InferenceSettings) -> None:
    """Works until it is told to end.

    Raises:
        FailedPrecondition: An address is taken.
    """
    ending, at_once = asyncio.Event(), asyncio.Event()

    def told() -> None:
        (at_once if ending.is_set() else ending).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    room, front = Room(settings), Front(settings.listen)
    if settings.metrics_listen:
        try:
            metrics.serve(settings.metrics_listen, room.supervisor)
        except OSError as error:
            raise FailedPrecondition(
                f"metrics_listen {settings.metrics_listen!r}: {error.strerror}"
            ) from error
    address = await front.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(room.run(ending))
            _log.info("supervising", address=address, supervisor=settings.supervisor)

            async def end() -> None:
                await ending.wait()
                await front.drain()
                await at_once.wait()
                _log.warning("told twice: the hosts are left")
                working.cancel()

            watching = tasks.create_task(end())
            working.add_done_callback(lambda _: watching.cancel())
    finally:
        await front.stop()


def main(argv: Sequence[str]) -> int:
    """Runs the supervisor; gives its exit code."""
    settings = load(argv)
    logs.configure("inference", level=settings.log_level)
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
