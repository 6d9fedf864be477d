"""A yard for the tour alone."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelyard.errors import FailedPrecondition
from modelyard.yard import tether

_ENDS_IN = 60.0


@contextmanager
def yard(keep: bool, replicas: int) -> Iterator[tuple[str, int]]:
    """A yard in a new folder while the block runs; gives its address and its process id.

    Args:
        keep: Takes the default ports, and leaves the yard up when the block ends well.
        replicas: Hosts of each version.

    Raises:
        FailedPrecondition: The yard does not start; the text says why.
    """
    if keep:
        folder = tempfile.mkdtemp(prefix="modelyard-demo-")
        with _started(Path(folder), keep, replicas) as started:
            yield started
    else:
        with (
            tempfile.TemporaryDirectory(prefix="modelyard-demo-") as folder,
            _started(Path(folder), keep, replicas) as started,
        ):
            yield started


@contextmanager
def _started(folder: Path, keep: bool, replicas: int) -> Iterator[tuple[str, int]]:
    log = folder / "up.log"
    command = [sys.executable, "-m", "modelyard", "up", "--data", str(folder / "data")]
    # The tour's own calls are all that shadows could slow, and who watches it waits for a verdict.
    command += ["--replicas", str(replicas), "--shadow-share", "0.25"]
    if not keep:
        command += ["--grpc-port", "0", "--metrics-port", "0"]
        # Whatever ends the tour ends its yard.
        command = [sys.executable, "-I", "-S", str(tether.__file__), str(os.getpid()), *command]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
    assert process.stdout is not None
    try:
        with process.stdout:
            line = process.stdout.readline()
        if not line.startswith("ready "):
            process.wait(_ENDS_IN)
            raise FailedPrecondition(f"the yard does not start:\n{log.read_text().strip()}")
        yield line.split()[1], process.pid
    except BaseException:
        _end(process)
        raise
    if not keep:
        _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_ENDS_IN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
