"""Reports on virtual time: at once on a change, every so often without, and through an absence."""

import asyncio
import itertools
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from modelyard.errors import Unavailable
from modelyard.names import VersionName
from modelyard.registry.v1 import host_pb2
from services.inference.lifecycle import Host, Phase
from services.inference.reporter import Reporter, to_proto
from tests.kit import virtual_time

HOST = Host("h1", VersionName("digits", 3), "sha256:a", Phase.LOADING, 5.0, stage="warming", pid=7)


class Registry:
    """Takes reports, or is away."""

    def __init__(self):
        self.away = False
        self.reports = []

    async def send(self, request):
        if self.away:
            raise Unavailable("away")
        self.reports.append((asyncio.get_running_loop().time(), request))


@asynccontextmanager
async def reporting(registry):
    reporter = Reporter(registry.send, supervisor="s", every=2.0, ttl=10.0)
    task = asyncio.create_task(reporter.run())
    yield reporter
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def test_nothing_is_said_before_anything_is_known():
    async def main():
        registry = Registry()
        async with reporting(registry):
            await asyncio.sleep(30)
        assert registry.reports == []

    virtual_time.run(main())


def test_on_change_and_every_two_seconds():
    async def main():
        registry = Registry()
        async with reporting(registry) as reporter:
            reporter.offer([HOST])
            reporter.offer([replace(HOST, stage="proving")])
            assert await reporter.delivered(1.0)
            assert len(registry.reports) == 1
            first = registry.reports[0][1]
            assert (first.supervisor, first.ttl.seconds) == ("s", 10)
            assert [host.stage for host in first.hosts] == ["proving"]
            await asyncio.sleep(6.5)
            times = [time for time, _ in registry.reports]
            assert all(1.9 < b - a < 2.1 for a, b in itertools.pairwise(times))
            assert len(times) == 4
            # Nothing new, nothing at once.
            reporter.offer([replace(HOST, stage="proving")])
            assert await reporter.delivered(0.1)
            assert len(registry.reports) == 4

    virtual_time.run(main())


def test_an_absent_registry_is_tried_until_it_is_back():
    async def main():
        registry = Registry()
        registry.away = True
        async with reporting(registry) as reporter:
            reporter.offer([HOST])
            assert not await reporter.delivered(60.0)
            reporter.offer([])
            registry.away = False
            assert await reporter.delivered(1.0)
            assert len(registry.reports[-1][1].hosts) == 0

    virtual_time.run(main())


def test_a_host_as_the_registry_knows_it():
    host = replace(HOST, phase=Phase.FAILED, reason="killed by SIGKILL", restarts=2)
    message = to_proto(host, 1000.5, "box")
    assert message == host_pb2.Host(
        id="h1",
        version="models/digits/versions/3",
        state=host_pb2.Host.STATE_FAILED,
        reason="killed by SIGKILL",
        restarts=2,
        state_time=message.state_time,
        machine="box",
        pid=7,
        stage="warming",
    )
    assert message.state_time.ToNanoseconds() == 1_005_500_000_000
