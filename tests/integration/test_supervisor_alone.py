"""A supervisor's process that has only the catalogue it saved: the registry is away."""

import asyncio
import hashlib
import os
import signal
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelyard.catalog import (
    Catalog,
    Change,
    File,
    Signature,
    Version,
    VersionLoaded,
    VersionRegistered,
)
from modelyard.inference.v2 import open_inference_pb2_grpc as pb_grpc
from modelyard.names import VersionName
from services.inference.processes import read_stages
from services.inference.saved import SavedCatalog
from tests.kit import graphs
from tests.kit.host import infer
from tests.kit.supervisor import free_port, is_alive, run_folder, supervisor_process, wait_until

NOW = datetime(2030, 1, 1, tzinfo=UTC)
X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture
def start(tmp_path):
    """Starts supervisors that share their folders and want `models/m/versions/1`."""
    content = graphs.scale(2.0).SerializeToString()
    hexdigest = hashlib.sha256(content).hexdigest()
    store = tmp_path / "store"
    blob = store / "sha256" / hexdigest[:2] / hexdigest
    blob.parent.mkdir(parents=True)
    blob.write_bytes(content)
    file = File("model.onnx", f"sha256:{hexdigest}", len(content))
    name = VersionName("m", 1)
    version = Version(name, file.digest, (file,), Signature(), NOW)
    catalog = Catalog()
    for event in (VersionRegistered(version), VersionLoaded(name)):
        catalog = catalog.apply(Change(catalog.revision + 1, NOW, event))
    data = tmp_path / "data"
    data.mkdir()

    async def save():
        saved = SavedCatalog(data / "catalog.pb")
        saving = asyncio.create_task(saved.run())
        saved.offer(catalog)
        while saved.load() is None:
            await asyncio.sleep(0.01)
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)

    asyncio.run(save())
    with run_folder() as run:

        @contextmanager
        def starter(*arguments):
            address = f"unix:{run}/registry.sock"
            with supervisor_process(address, store, data, run, arguments) as process:
                yield process

        yield starter


def serving(supervisor):
    """The records of hosts that serve, with their addresses."""
    found = []
    for record in supervisor.records():
        said = {stage["stage"]: stage for stage in read_stages(Path(record["stages"]))}
        if "serving" in said and is_alive(record["pid"]):
            found.append({**record, "address": said["serving"]["address"]})
    return found


def call(address):
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(address, options=options) as channel:
        return infer(pb_grpc.GRPCInferenceServiceStub(channel), "m", {"x": X})["y"]


def test_it_serves_what_it_knows_and_says_that_it_is_well(start):
    port = free_port()
    with start("--metrics-listen", f"127.0.0.1:{port}") as supervisor:
        (host,) = wait_until(lambda: serving(supervisor), what=supervisor.log.read_text)
        np.testing.assert_array_equal(call(host["address"]), X * 2)
        with grpc.insecure_channel(f"unix:{supervisor.run}/inference.sock") as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            answer = check(health_pb2.HealthCheckRequest(), timeout=30)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        os.kill(host["pid"], signal.SIGKILL)
        wait_until(lambda: [h for h in serving(supervisor) if h["pid"] != host["pid"]])
        url = f"http://127.0.0.1:{port}/metrics"

        def figures():
            with urllib.request.urlopen(url, timeout=30) as page:
                return page.read().decode()

        wait_until(lambda: 'modelyard_hosts{phase="serving"} 1.0' in figures())
        assert "modelyard_host_restarts_total 1.0" in figures()
        assert supervisor.terminate() == 0
        assert supervisor.records() == []
        assert list(supervisor.run.glob("*.sock")) == []


def test_kill_and_adopt(start):
    with start() as first:
        (host,) = wait_until(lambda: serving(first), what=first.log.read_text)
        first.kill()
    np.testing.assert_array_equal(call(host["address"]), X * 2)
    with start("--leave-hosts") as second:
        wait_until(lambda: "host adopted" in second.log.read_text())
        assert serving(second) == [host]
        assert second.terminate() == 0
    with start() as third:
        wait_until(lambda: third.log.read_text().count("host adopted") == 2)
        assert serving(third) == [host]
        assert third.terminate() == 0
    assert not is_alive(host["pid"])


def test_a_second_signal_leaves_the_hosts(start):
    with start() as supervisor:
        (host,) = wait_until(lambda: serving(supervisor), what=supervisor.log.read_text)
        os.kill(host["pid"], signal.SIGSTOP)
        supervisor.process.send_signal(signal.SIGTERM)
        wait_until(lambda: supervisor.records() and supervisor.records()[0]["unwanted"])
        assert supervisor.terminate() == 0
        assert is_alive(host["pid"])


def test_hosts_without_a_supervisor_end(start):
    with start("--orphan-grace", "1") as supervisor:
        (host,) = wait_until(lambda: serving(supervisor), what=supervisor.log.read_text)
        supervisor.kill()
    wait_until(lambda: not is_alive(host["pid"]))


def test_one_supervisor_in_a_run_folder(start):
    with start() as first:
        wait_until(lambda: (first.run / "supervisor.alive").exists())
        with start() as second:
            assert second.process.wait(60) == 2
            assert "another supervisor works in" in second.log.read_text()
        assert first.process.poll() is None


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--replicas", "0"], "replicas '0'"),
        (["--host-listen", "foo"], "host_listen 'foo': neither 'unix' nor"),
        (["--host-listen", "0.0.0.0"], "only with --insecure"),
        (["--run-dir", "/" + "x" * 90], "91 bytes long"),
        (["--listen", "nowhere:99999999"], "listen 'nowhere:99999999'"),
    ],
)
def test_a_wrong_setting_is_named(start, flags, told):
    with start(*flags) as supervisor:
        assert supervisor.process.wait(60) == 2
        assert told in supervisor.log.read_text()
