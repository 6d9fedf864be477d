"""Composition root: `python -m services.archive`.

Carries the event log to the archive. SIGTERM and SIGINT write what waits and end. Exit code 2 for
a wrong setting or an address that is taken.
"""

import asyncio
import gc
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import structlog

from modelyard import background, logs
from modelyard.errors import FailedPrecondition, InvalidArgument, StoreUnavailable
from modelyard.events.payloads import Payloads
from modelyard.events.reader import models
from modelyard.redis_client import connect
from modelyard.server import Server, signals
from modelyard.settings import load
from modelyard.telemetry import Metrics
from services.archive.collector import Collector, Flush
from services.archive.metrics import ArchiveCollector
from services.archive.partitions import Partitions
from services.archive.settings import ArchiveSettings

_log = structlog.get_logger(__name__)

# How often models that have their first event are looked for, in seconds.
_LOOK_EVERY = 1.0
# So many objects more than there were, and the collector looks at the new ones.
_COLLECT_AFTER = 50_000


class Archiver:
    """A collector for each model that has events.

    Args:
        settings: What it is told.
        redis: Of the event log.
    """

    def __init__(self, settings: ArchiveSettings, redis: Any) -> None:
        self._settings = settings
        self._redis = redis
        self._payloads = Payloads(settings.payloads) if settings.payloads else None
        self._flush = Flush(settings.flush_rows, settings.flush_bytes, settings.flush_seconds)
        days = settings.retention_days
        self._retention = timedelta(days=days) if days else None
        self.collectors: dict[str, Collector] = {}

    async def run(self, ending: asyncio.Event) -> None:
        """Works until `ending` is set, and writes what waits."""
        async with asyncio.TaskGroup() as tasks:
            while not ending.is_set():
                for model in await self._models():
                    if model not in self.collectors:
                        collector = self.collectors[model] = self._collector(model)
                        tasks.create_task(collector.run(), name=f"archive {model}")
                        _log.info("archiving", model=model)
                try:
                    async with asyncio.timeout(_LOOK_EVERY):
                        await ending.wait()
                except TimeoutError:
                    continue
            for collector in self.collectors.values():
                collector.end()

    async def _models(self) -> set[str]:
        try:
            return await models(self._redis)
        except StoreUnavailable:
            return set()  # The collectors tell of it.

    def _collector(self, model: str) -> Collector:
        partitions = Partitions(self._settings.archive, model)
        return Collector(
            model, self._redis, partitions, self._payloads, self._flush, self._retention
        )


async def serve(settings: ArchiveSettings) -> None:
    """Works until told to end.

    Raises:
        FailedPrecondition: An address is taken, or a TLS file cannot be read.
        InvalidArgument: The Redis URL is of an unknown kind.
    """
    async with AsyncExitStack() as ends, signals() as ending:
        redis = connect(settings.events)
        ends.push_async_callback(redis.aclose)
        archiver = Archiver(settings, redis)
        server = Server(settings, ())
        if settings.metrics_listen:
            collector = ArchiveCollector(lambda: archiver.collectors)
            metrics = Metrics(settings.metrics_listen, [collector])
            ends.callback(metrics.close)
        address = await server.start()
        await server.serving()
        _log.info("serving", address=address)
        # Rows are many objects and no cycles; to look through those that wait again and again took
        # as long as to make them.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER)
        await archiver.run(ending)
        await server.drain()


def main(argv: Sequence[str]) -> int:
    """Runs the archive's writer; gives its exit code."""
    settings = load(ArchiveSettings, argv)
    logs.configure("archive", level=settings.log_level)
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
