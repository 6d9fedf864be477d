"""The supervisor's loop with real hosts: what it wants is told to it directly."""

import asyncio
import hashlib
import os
import random
import signal
from contextlib import asynccontextmanager

import grpc.aio
import pytest

from modelyard.catalog import File
from modelyard.channels import open_channel
from modelyard.names import VersionName
from services.inference.artifacts import Artifact, ArtifactCache
from services.inference.lifecycle import Phase, Retries
from services.inference.ports import Timing
from services.inference.probes import Prober
from services.inference.processes import Launcher
from services.inference.reconcile import Policy
from services.inference.supervisor import Supervisor
from tests.kit import graphs
from tests.kit.supervisor import is_alive, run_folder


class Told:
    """Keeps what was reported."""

    def __init__(self):
        self.seen = []

    def offer(self, hosts):
        now = {host.id: host for host in hosts}
        if not self.seen or self.seen[-1] != now:
            self.seen.append(now)

    async def delivered(self, timeout):
        return True


class World:
    """A store, the wants, and supervisors on one run folder."""

    def __init__(self, folder, run):
        self.folder, self.run = folder, run
        self.wanted = {}
        self.told = Told()

    def put(self, content, name="model.onnx"):
        hexdigest = hashlib.sha256(content).hexdigest()
        blob = self.folder / "store/sha256" / hexdigest[:2] / hexdigest
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        return File(name, f"sha256:{hexdigest}", len(content))

    def want(self, number, content):
        file = self.put(content)
        self.wanted = {
            **self.wanted,
            VersionName("m", number): Artifact(file.digest, (file,)),
        }

    @asynccontextmanager
    async def supervisor(self, listen="unix", **policy):
        alive = self.run / "supervisor.alive"
        prober = Prober(open_channel, timeout=2.0)
        supervisor = Supervisor(
            wanted=lambda: self.wanted,
            launcher=Launcher(
                run=self.run,
                logs=self.folder / "logs",
                listen=listen,
                arguments=["--alive-file", str(alive), "--threads", "1"],
            ),
            artifacts=ArtifactCache(str(self.folder / "store"), self.folder / "cache"),
            probes=prober,
            reports=self.told,
            alive_file=alive,
            logs=self.folder / "logs",
            policy=Policy(**policy),
            retries=Retries(first=0.1),
            timing=Timing(check_every=0.2, drain_notice=0.05),
            rng=random.Random(1),
        )
        running = asyncio.create_task(supervisor.run())
        try:
            yield supervisor
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            supervisor.leave()
            await prober.forget(set())


@pytest.fixture
def world(tmp_path):
    with run_folder() as run:
        yield World(tmp_path, run)


async def until(condition):
    async with asyncio.timeout(60):
        while not (value := condition()):
            await asyncio.sleep(0.02)
    return value


def serving(supervisor, number):
    return [
        host
        for host in supervisor.hosts
        if host.phase is Phase.SERVING and host.version.number == number
    ]


async def test_start_replace_and_drain(world):
    world.want(1, graphs.scale(1.0).SerializeToString())
    async with world.supervisor() as supervisor:
        (old,) = await until(lambda: serving(supervisor, 1))
        world.wanted = {}
        world.want(2, graphs.scale(2.0).SerializeToString())
        await until(lambda: serving(supervisor, 2))
        await until(lambda: len(supervisor.hosts) == 1)
        assert not is_alive(old.pid)
        await supervisor.drain()
        assert supervisor.hosts == ()
        assert [path.name for path in (world.run / "hosts").iterdir()] == []
    # At no moment between was nobody serving.
    phases = [{host.phase for host in hosts.values()} for hosts in world.told.seen]
    first = next(n for n, seen in enumerate(phases) if Phase.SERVING in seen)
    last = max(n for n, seen in enumerate(phases) if Phase.SERVING in seen)
    assert all(Phase.SERVING in seen for seen in phases[first:last])
    stages = [host.stage for hosts in world.told.seen for host in hosts.values()]
    assert {"fetching", "loading"} & set(stages)


async def test_a_crash_in_loading_and_a_crash_in_serving(world):
    world.want(1, graphs.scale(1.0).SerializeToString())
    async with world.supervisor() as supervisor:
        (host,) = await until(
            lambda: [h for h in supervisor.hosts if h.phase is Phase.LOADING and h.pid]
        )
        os.kill(host.pid, signal.SIGKILL)
        await until(lambda: [h for h in supervisor.hosts if h.phase is Phase.FAILED])
        (again,) = await until(lambda: serving(supervisor, 1))
        assert (again.id, again.restarts) == (host.id, 1)
        os.kill(again.pid, signal.SIGTERM)
        (third,) = await until(lambda: [h for h in serving(supervisor, 1) if h.restarts == 2])
        assert supervisor.restarts == 2
        reasons = {h.reason for hosts in world.told.seen for h in hosts.values()}
        assert {"killed by SIGKILL", "ended without being asked by its supervisor"} <= reasons
        await supervisor.drain()
        assert not is_alive(third.pid)


async def test_a_faulty_artifact(world):
    world.want(1, b"this is not a model")
    async with world.supervisor() as supervisor:
        (host,) = await until(lambda: [h for h in supervisor.hosts if h.phase is Phase.FAILED])
        assert host.permanent
        assert "cannot load the model" in host.reason
        await supervisor.drain()


async def test_an_absent_blob_comes_later(world):
    content = graphs.scale(1.0).SerializeToString()
    world.want(1, content)
    (blob,) = (path for path in (world.folder / "store").rglob("*") if path.is_file())
    blob.unlink()
    async with world.supervisor() as supervisor:
        (host,) = await until(lambda: [h for h in supervisor.hosts if h.phase is Phase.FAILED])
        assert "artifact store does not give 'model.onnx'" in host.reason
        world.put(content)
        await until(lambda: serving(supervisor, 1))
        await supervisor.drain()


async def test_a_host_is_killed_when_it_does_not_drain(world):
    world.want(1, graphs.scale(1.0).SerializeToString())
    async with world.supervisor(drain_timeout=0.5) as supervisor:
        (host,) = await until(lambda: serving(supervisor, 1))
        os.kill(host.pid, signal.SIGSTOP)
        world.wanted = {}
        await until(lambda: not supervisor.hosts)
        assert not is_alive(host.pid)


async def test_adoption(world):
    world.want(1, graphs.scale(1.0).SerializeToString())
    async with world.supervisor() as supervisor:
        (host,) = await until(lambda: serving(supervisor, 1))
    async with world.supervisor() as supervisor:
        (same,) = await until(lambda: serving(supervisor, 1))
        assert (same.id, same.pid, same.address) == (host.id, host.pid, host.address)
        # One that does not answer any more is not adopted, but killed.
        os.kill(same.pid, signal.SIGSTOP)
    async with world.supervisor() as supervisor:
        (again,) = await until(lambda: serving(supervisor, 1))
        assert (again.id, again.restarts) == (host.id, 1)
        assert again.pid != host.pid
        world.wanted = None
        # While nothing is known nobody is drained.
        await asyncio.sleep(0.5)
        assert serving(supervisor, 1) == [again]
        await supervisor.drain()


async def test_hosts_on_tcp(world):
    world.want(1, graphs.scale(1.0).SerializeToString())
    async with world.supervisor(listen="127.0.0.1") as supervisor:
        (host,) = await until(lambda: serving(supervisor, 1))
        assert host.address.startswith("127.0.0.1:")
        async with grpc.aio.insecure_channel(host.address) as channel:
            await asyncio.wait_for(channel.channel_ready(), 30)
        await supervisor.drain()
