"""`python -m gateway` on a registry that a test has, such as a yard's."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.fronts import envoy
from tests.kit.yard import LANES

only_envoy = pytest.mark.skipif(bool(envoy.missing()), reason=envoy.missing())
# For a fixture's or a test's `params`.
FRONTS = ["grpcio", "http2", pytest.param("envoy", marks=only_envoy)]
# With two processes behind the port, too.
GATEWAYS = [
    *FRONTS,
    *(
        pytest.param(f"{front}-2", marks=(only_envoy, pytest.mark.campaign))
        for front in ("grpcio", "http2", "envoy")
    ),
]
# Of whole yards: a front and a lane. Each front and each lane is in `make test`; all pairs are in
# `make campaigns`.
_USUAL = {("http2", lane) for lane in LANES} | {("grpcio", "grpc"), ("envoy", "frames")}


def _way(front: str, lane: str) -> Any:
    marks = [] if front in ("grpcio", "http2") else [only_envoy]
    if (front, lane) not in _USUAL:
        marks.append(pytest.mark.campaign)
    return pytest.param((front, lane), id=f"{front}-{lane}", marks=marks)


WAYS = [
    *(_way(front, lane) for front in ("http2", "envoy", "grpcio") for lane in LANES),
    *(_way(front, "frames") for front in ("http2-2", "envoy-2")),
]


def flags_of(front: str) -> tuple[str, ...]:
    """What a gateway is told for one of `GATEWAYS`."""
    kind, _, workers = front.partition("-")
    return ("--front", kind, "--workers", workers or "1")


@dataclass
class Gateway:
    """A running gateway.

    Attributes:
        process: It; with the front inside Envoy, the process that started Envoy.
        address: Where it answers.
        log: What it wrote.
        front: Which front a test asked for.
    """

    process: subprocess.Popen[bytes]
    address: str
    log: Path
    front: str = ""

    def envoy(self) -> psutil.Process:
        """The Envoy that it started."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def processes(self) -> list[psutil.Process]:
        """It, and what it started: Envoy, workers."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.send_signal(signal.SIGTERM)


def _serving(log: Path) -> str:
    for line in log.read_text(errors="replace").splitlines():
        if '"event": "serving"' in line:
            return str(json.loads(line)["address"])
    return ""


@contextmanager
def running_gateway(
    registry: Path, log: Path, *flags: str, listen: str = "127.0.0.1:0", patience: float = 60.0
) -> Iterator[Gateway]:
    """A gateway while the block runs; nothing of it is left afterwards.

    Args:
        registry: The registry's socket.
        log: Takes what the gateway writes.
        flags: For the gateway.
        listen: Where it shall listen.
        patience: Seconds that it has to serve.
    """
    command = (sys.executable, "-m", "gateway", "--registry", f"unix:{registry}")
    where = ("--listen", listen, "--metrics-listen", "127.0.0.1:0")
    with log.open("wb") as out:
        process = subprocess.Popen([*command, *where, *flags], stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + patience
        while not (address := _serving(log)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the gateway does not serve:\n{log.read_text()}")
            time.sleep(0.05)
        yield Gateway(process, address, log)
    finally:
        # The Envoy that it started ends with it.
        process.kill()
        process.wait()
