"""Real Redis servers and registries as child processes."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelyard import redis_server

_ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Process:
    """A child process that can be killed and started again."""

    argv: Sequence[str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def start(self) -> None:
        """Starts it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """SIGKILL, and collects it."""
        self._end(signal.SIGKILL)

    def terminate(self, timeout: float = 60.0) -> int:
        """SIGTERM; gives the exit code."""
        return self._end(signal.SIGTERM, timeout)

    def _end(self, number: signal.Signals, timeout: float = 30.0) -> int:
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.process.wait(timeout)


@dataclass
class RedisProcess(Process):
    """A Redis on a socket."""

    socket: Path = Path()

    @property
    def url(self) -> str:
        """For clients."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        super().start()
        _wait(lambda: redis_server.answers(self.socket), self)


@dataclass
class RegistryProcess(Process):
    """A registry."""

    address: str = ""
    artifacts: Path = Path()

    def start(self, ready: bool = True) -> None:
        """Starts it and waits until it serves."""
        super().start()
        if ready:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Waits until it serves."""
        _wait(self._serves, self)

    def _serves(self) -> bool:
        options = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.insecure_channel(self.address, options=options) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=1.0
                )
            except grpc.RpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _wait(condition: object, process: Process, timeout: float = 60.0) -> None:
    assert callable(condition)
    assert process.process is not None
    end = time.monotonic() + timeout
    while not condition():
        ended = process.process.poll()
        if ended is not None or time.monotonic() > end:
            text = process.log.read_text()[-4000:]
            raise AssertionError(f"{process.argv}: not ready (exit code {ended})\n{text}")
        time.sleep(0.02)


@contextmanager
def start_redis(folder: Path) -> Iterator[RedisProcess]:
    """A Redis that keeps its file in `folder`; its socket lies elsewhere, for its path is short."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Path(tempfile.mkdtemp(prefix="my-redis-"))
    socket = run / "s"
    process = RedisProcess(redis_server.command(folder, socket), folder / "redis.log", socket)
    try:
        process.start()
        yield process
    finally:
        process.kill()
        shutil.rmtree(run, ignore_errors=True)


@contextmanager
def start_registry(
    redis: RedisProcess, folder: Path, *flags: str, env: dict[str, str] | None = None
) -> Iterator[RegistryProcess]:
    """A registry that keeps its artifacts in `folder`; the same address at each start."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Path(tempfile.mkdtemp(prefix="my-registry-"))
    address = f"unix:{run}/s"
    artifacts = folder / "artifacts"
    argv = [sys.executable, "-m", "services.registry", "--listen", address]
    argv += ["--redis", redis.url, "--artifacts", str(artifacts), *flags]
    process = RegistryProcess(argv, folder / "registry.log", address, artifacts)
    for key, value in (env or {}).items():
        os.environ[key] = value
    try:
        process.start()
        yield process
    finally:
        process.kill()
        for key in env or {}:
            os.environ.pop(key, None)
        shutil.rmtree(run, ignore_errors=True)
