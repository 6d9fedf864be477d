"""Real supervisors as child processes, and what the registry and its files tell of their hosts."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc

from modelyard.registry.v1 import (
    artifact_service_pb2,
    artifact_service_pb2_grpc,
    host_pb2,
    host_service_pb2,
    host_service_pb2_grpc,
    model_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
)

_ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], timeout: float = 60.0, what: Callable[[], object] = str
) -> T:
    """The first value of `condition` that is true; fails after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not so within {timeout:g} s: {what()}")
        time.sleep(0.05)
    return value


@dataclass
class Supervisor:
    """A supervisor's process and its folders."""

    process: "subprocess.Popen[bytes]"
    data: Path
    run: Path
    log: Path

    def records(self) -> list[dict[str, object]]:
        """What it noted of its living hosts."""
        return read_records(self.run)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(30)

    def terminate(self, timeout: float = 60.0) -> int:
        """SIGTERM; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


def read_records(run: Path) -> list[dict[str, object]]:
    """The records of hosts in a run folder."""
    found = []
    for path in sorted((run / "hosts").glob("*.json")):
        try:
            found.append(json.loads(path.read_text()))
        except FileNotFoundError:
            continue
    return found


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_alive(pid: int) -> bool:
    """Tells whether the process runs; one that ended and waits to be collected does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] != "Z"


@contextmanager
def run_folder() -> Iterator[Path]:
    """A folder with a short path; hosts that are left in it are killed at the end."""
    run = Path(tempfile.mkdtemp(prefix="my-", dir="/tmp"))
    try:
        yield run
    finally:
        for record in read_records(run):
            pid = int(str(record["pid"]))
            if is_alive(pid) and b"services.inference.host" in _command(pid):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(run, ignore_errors=True)


@contextmanager
def supervisor_process(
    registry: str, artifacts: Path, data: Path, run: Path, arguments: Sequence[str] = ()
) -> Iterator[Supervisor]:
    """A supervisor's process; killed at the end where it still runs.

    Args:
        registry: The registry's address.
        artifacts: The artifact store's folder.
        data: Its data folder.
        run: Its run folder; see `run_folder`.
        arguments: More flags.
    """
    data.mkdir(parents=True, exist_ok=True)
    log = data / "supervisor.log"
    command = [sys.executable, "-m", "services.inference", "--registry", registry]
    command += ["--artifacts", str(artifacts), "--data-dir", str(data), "--run-dir", str(run)]
    command += ["--listen", f"unix:{run}/inference.sock", *arguments]
    with log.open("ab") as stderr:
        process = subprocess.Popen(command, cwd=_ROOT, stdout=stderr, stderr=stderr)
    try:
        yield Supervisor(process, data, run, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)


@dataclass
class Registry:
    """A registry's services, as a client has them."""

    catalog: registry_service_pb2_grpc.RegistryServiceStub
    artifacts: artifact_service_pb2_grpc.ArtifactServiceStub
    leases: host_service_pb2_grpc.HostServiceStub

    def upload(self, path: str, content: bytes) -> model_pb2.File:
        """Uploads a file."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        request = artifact_service_pb2.WriteBlobRequest(
            digest=digest, size_bytes=len(content), data=content
        )
        assert self.artifacts.WriteBlob(iter([request]), timeout=30).complete
        return model_pb2.File(path=path, digest=digest, size_bytes=len(content))

    def register(self, model: str, content: bytes, golden: bytes | None = None) -> int:
        """Registers a version and gives its number."""
        request = registry_service_pb2.RegisterVersionRequest(
            model=model, files=[self.upload("model.onnx", content)]
        )
        if golden is not None:
            request.golden.CopyFrom(self.upload("golden.npz", golden))
        return int(self.catalog.RegisterVersion(request, timeout=60).version.number)

    def load(self, model: str, version: int) -> None:
        """Asks for hosts of a version."""
        name = f"models/{model}/versions/{version}"
        self.catalog.LoadVersion(registry_service_pb2.LoadVersionRequest(name=name), timeout=30)

    def unload(self, model: str, version: int) -> None:
        """Takes `load` back."""
        name = f"models/{model}/versions/{version}"
        self.catalog.UnloadVersion(registry_service_pb2.UnloadVersionRequest(name=name), timeout=30)

    def label(self, model: str, label: str, version: int, immediate: bool = False) -> None:
        """Moves a label."""
        self.catalog.MoveLabel(
            registry_service_pb2.MoveLabelRequest(
                name=f"models/{model}/labels/{label}", version=version, immediate=immediate
            ),
            timeout=60,
        )

    def live(self, model: str) -> int:
        """The number of the version that is live."""
        request = registry_service_pb2.GetModelRequest(name=f"models/{model}")
        labels = self.catalog.GetModel(request, timeout=30).model.labels
        return next(int(la.version) for la in labels if la.name.endswith("/live"))

    def hosts(self, model: str = "", version: int = 0) -> list[host_pb2.Host]:
        """The hosts whose lease holds."""
        parent = f"models/{model}" if model else ""
        if version:
            parent += f"/versions/{version}"
        request = host_service_pb2.ListHostsRequest(parent=parent)
        return list(self.leases.ListHosts(request, timeout=30).hosts)

    def in_state(self, state: str, model: str = "", version: int = 0) -> list[host_pb2.Host]:
        """The hosts in a state, such as `SERVING`."""
        number = host_pb2.Host.State.Value(f"STATE_{state}")
        return [host for host in self.hosts(model, version) if host.state == number]

    def wait_failed(self, model: str) -> list[host_pb2.Host]:
        """Waits until hosts of a model are failed ones, and gives them."""
        return wait_until(lambda: self.in_state("FAILED", model), what=lambda: self.hosts(model))

    def wait_serving(self, model: str, version: int, count: int = 1) -> list[host_pb2.Host]:
        """Waits until so many hosts of a version serve, and gives them."""
        return (
            wait_until(
                lambda: (
                    serving
                    if len(serving := self.in_state("SERVING", model, version)) == count
                    else None
                ),
                what=lambda: self.hosts(model),
            )
            or []
        )


@contextmanager
def connect_registry(address: str) -> Iterator[Registry]:
    """The services of the registry at an address."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(address, options=options) as channel:
        yield Registry(
            registry_service_pb2_grpc.RegistryServiceStub(channel),
            artifact_service_pb2_grpc.ArtifactServiceStub(channel),
            host_service_pb2_grpc.HostServiceStub(channel),
        )


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
