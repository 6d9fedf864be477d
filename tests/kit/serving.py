"""`modelyard serve` as its users start it: model files, one process, free ports."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard.client import Client

_START = 100.0


@dataclass
class Serving:
    """A running `modelyard serve --json`.

    Attributes:
        process: Its process, the only one.
        ready: What it said when it was.
        stderr: What it wrote to standard error.
    """

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    stderr: Path

    @property
    def address(self) -> str:
        """Where it answers."""
        return str(self.ready["address"])

    def client(self) -> Client:
        """A client of its own; the caller closes it."""
        return Client(self.address)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def serving(
    folder: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> Iterator[Serving]:
    """Serves while the block runs; `arguments` are files and flags.

    Args:
        folder: Where its standard error goes.
        arguments: Of the command.
        environment: Added to this process's.
    """
    command = [sys.executable, "-m", "modelyard", "serve", "--json", "--metrics-port", "0"]
    if "--listen" not in arguments:
        command += ["--grpc-port", "0"]
    stderr = folder / "serve.stderr"
    with stderr.open("w") as errors:
        process = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(environment or {})},
        )
    stdout = process.stdout
    assert stdout is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True)
    reader.start()
    try:
        line = lines.get(timeout=_START)
        assert line, f"ended with {process.wait(30)}: {stderr.read_text()}"
        yield Serving(process, json.loads(line), stderr)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
        reader.join(30)
        stdout.close()
