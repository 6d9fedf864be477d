"""A whole yard as its users start it: `modelyard up` on a data folder and free ports.

with running_yard(tmp_path) as yard:
    yard.client.register("digits", path, wait=True)
    tritonclient.grpc.InferenceServerClient(yard.address)
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from modelyard.client import Client
from modelyard.yard.layout import Layout, layout

READY = re.compile(r"ready (?P<address>\S+) \(metrics (?P<metrics>[^,]+), data (?P<data>.+)\)")


@dataclass
class Yard:
    """A running `modelyard up`.

    Attributes:
        process: The process of `up`.
        address: Where the gateway answers, as `host:port`.
        metrics: Where its metrics are, as `host:port`.
        layout: Its folders.
        stderr: What `up` wrote to standard error.
        numbers: Of versions that a test has names for.
    """

    process: subprocess.Popen[str]
    address: str
    metrics: str
    layout: Layout
    stderr: Path
    numbers: dict[str, int] = field(default_factory=dict)
    _client: Client | None = field(default=None, repr=False)

    @property
    def client(self) -> Client:
        """One client for the yard's life."""
        if self._client is None:
            self._client = Client(self.address)
        return self._client

    def cli(self, *arguments: str, input: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Runs `modelyard ...` on this yard."""
        return cli(*arguments, address=self.address, input=input)

    def processes(self) -> list[psutil.Process]:
        """Every process of the yard now, `up` first; hosts included that an earlier `up` made."""
        found = [psutil.Process(self.process.pid)] if self.process.poll() is None else []
        return found + processes_of(self.layout)

    def room(self, name: str) -> psutil.Process:
        """The process of `redis`, `events`, `registry`, `inference`, `gateway` and so on."""
        needles = {
            "redis": f"unixsocket:{self.layout.redis_socket}",
            "events": f"unixsocket:{self.layout.events_socket}",
            "gateway": "-m gateway",
            "shadow-hosts": f"--data-dir {self.layout.shadow}",
        }
        needle = needles.get(name, f"-m services.{name}")
        for process in processes_of(self.layout):
            line = _command(process)
            if needle in line and "services.inference.host" not in line:
                return process
        raise LookupError(f"no {name} runs")

    def lanes(self) -> set[str]:
        """The lanes over which hosts are asked now."""
        return {replica.lane for replica in self.client.status().replicas}

    def stop(self, patience: float = 60.0) -> int:
        """Ends the yard with SIGTERM; returns its exit code."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(patience)


def cli(
    *arguments: str, address: str = "127.0.0.1:1", input: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """Runs `modelyard ...` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "modelyard", *arguments],
        env={**os.environ, "MODELYARD_ADDRESS": address, "COLUMNS": "200", "NO_COLOR": "1"},
        input=input,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


# The lanes to hosts, and what a gateway is told for each: frames are what it chooses by itself.
LANES = {"grpc": "grpc", "frames": "auto"}


def start_yard(data: Path, *flags: str, lane: str = "frames", patience: float = 100.0) -> Yard:
    """Starts a yard and returns when it is ready; raises RuntimeError where it is not."""
    folders = layout(data)
    data.mkdir(parents=True, exist_ok=True)
    stderr = data / "up.stderr"
    with stderr.open("ab") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "modelyard", "up", "--data", str(data)),
                *("--grpc-port", "0", "--metrics-port", "0", *flags),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "MODELYARD_GATEWAY_LANE": LANES[lane]},
            start_new_session=True,
        )
    assert process.stdout is not None
    # `up` bounds its own start, and says on standard error why it gave up.
    line = process.stdout.readline()
    ready = READY.match(line)
    if ready is None:
        process.kill()
        process.wait()
        raise RuntimeError(f"the yard is not ready ({line!r}):\n{stderr.read_text()}")
    return Yard(process, ready["address"], ready["metrics"], folders, stderr)


@contextmanager
def running_yard(data: Path, *flags: str, lane: str | None = None) -> Iterator[Yard]:
    """A yard while the block runs; nothing of it is left afterwards.

    Where a lane is named, all hosts are asked over it, as the block ends as well.
    """
    yard = start_yard(data, *flags, lane=lane or "frames")
    try:
        yield yard
        if lane is not None:
            eventually(lambda: yard.lanes() == {lane})
    finally:
        try:
            yard.stop()
        finally:
            if yard.process.poll() is None:
                yard.process.kill()
                yard.process.wait()
            if yard.process.stdout is not None:
                yard.process.stdout.close()
            end(processes_of(yard.layout))


def processes_of(folders: Layout) -> list[psutil.Process]:
    """The processes whose command line names a folder of the yard; `up` itself is none of them."""
    found = []
    for process in psutil.process_iter():
        line = _command(process)
        ours = str(folders.data) in line or str(folders.run) in line
        if ours and "modelyard up" not in line:
            found.append(process)
    return found


def end(processes: list[psutil.Process]) -> None:
    """Kills processes, each by its id."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)


def eventually(condition: Callable[[], Any], patience: float = 30.0) -> Any:
    """Waits until a condition is true and returns its value; fails when patience is over."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{condition} is not true after {patience:g} s"
        time.sleep(0.05)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
