"""Children of a benchmark: started, waited for, ended; and a yard as its users start it."""

import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil

from benchmarks.load import Order, Sample
from modelyard.client import Client
from modelyard.yard.layout import Layout, layout

ROOT = Path(__file__).resolve().parent.parent
_START_SECONDS = 120.0
_STOP_SECONDS = 60.0


class DidNotStart(Exception):
    """A server ended, or said nothing, before it was ready."""


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _did_not_start(process: "subprocess.Popen[str]", log: Path) -> DidNotStart:
    said = log.read_text(errors="replace").strip().splitlines()[-5:]
    return DidNotStart("did not start: " + (" / ".join(reversed(said)) or f"{process.args!r}"))


@contextmanager
def child(
    *command: str | Path,
    log: Path,
    environment: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
) -> Iterator["subprocess.Popen[str]"]:
    """A process while the block runs; its standard error, and output nobody reads, are logged."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [str(c) for c in command],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()


def wait_line(process: "subprocess.Popen[str]", pattern: str, log: Path) -> re.Match[str]:
    """The first line of output that matches; raises DidNotStart when none comes in time."""
    assert process.stdout is not None
    deadline = time.monotonic() + _START_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                break
            line = process.stdout.readline()
            if found := re.search(pattern, line):
                return found
            if not line:
                break
    raise _did_not_start(process, log)


def wait_port(process: "subprocess.Popen[str]", port: int, log: Path) -> None:
    """Returns when a gRPC server answers on the port; raises DidNotStart when none does."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ready = grpc.channel_ready_future(channel)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                ready.result(timeout=0.5)
            except grpc.FutureTimeoutError:
                continue
            return
    raise _did_not_start(process, log)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process and those that it started have taken."""
    total = 0.0
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


@dataclass(frozen=True, slots=True)
class Yard:
    """A running `modelyard up`.

    Attributes:
        address: Of the gateway.
        client: For the registry.
        up: The process of `up`.
        layout: Its folders.
        metrics: Where Prometheus reads the gateway.
    """

    address: str
    client: Client
    up: psutil.Process
    layout: Layout
    metrics: str

    def processes(self, *words: str) -> list[psutil.Process]:
        """The yard's processes whose command line holds all the words."""
        found = []
        for process in self.up.children(recursive=True):
            try:
                line = " ".join(process.cmdline())
            except psutil.NoSuchProcess:  # it ended between the two looks
                continue
            if all(word in line for word in words):
                found.append(process)
        return found

    def rss_mib(self, *words: str) -> float:
        """Resident memory of those processes together, in MiB."""
        weights = 0
        for process in self.processes(*words):
            with suppress(psutil.NoSuchProcess):
                weights += process.memory_info().rss
        return round(weights / 2**20, 1)


@contextmanager
def yard(folder: Path, *flags: str, environment: Mapping[str, str] | None = None) -> Iterator[Yard]:
    """A whole yard on a data folder below `folder`, on free ports; rooms get `environment`, too."""
    data = folder / "yard"
    data.mkdir()
    log = folder / "yard.log"
    up = (sys.executable, "-m", "modelyard", "up", "--data", data, "--grpc-port", "0")
    with child(*(*up, "--metrics-port", "0", *flags), log=log, environment=environment) as process:
        ready = wait_line(process, r"^ready (\S+) \(metrics ([^,]+),", log)
        with Client(ready[1]) as client:
            yield Yard(
                ready[1], client, psutil.Process(process.pid), layout(data), metrics=ready[2]
            )


class LoadClient:
    """The client process of `benchmarks.load`.

    Attributes:
        pid: Its identifier.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = process.pid

    def measure(self, order: Order) -> Sample:
        """Has one order carried out; raises RuntimeError when the client ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load client ended")
        answer: dict[str, Any] = json.loads(line)
        return Sample(**answer)


@contextmanager
def load_client(module: str = "benchmarks.load") -> Iterator[LoadClient]:
    """A client process while the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        yield LoadClient(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
