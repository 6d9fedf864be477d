"""The C++ client: NVIDIA's perf_analyzer, as it comes, on one core like the Python client."""

import csv
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.load import Sample

PROGRAM = Path(__file__).resolve().parent.parent / ".tools" / "perf_analyzer" / "perf_analyzer"
# It measures until so many windows agree within so many per cent: the first three always do.
_WINDOWS, _AGREE = 3, 10_000
_PATIENCE = 120.0


class Unfit(Exception):
    """Why it cannot measure a server: it asks for more than inference."""


def measure(
    address: str,
    model: str,
    shape: Sequence[int],
    in_flight: int,
    seconds: float,
    rate: float = 0.0,
) -> Sample:
    """Calls in a closed loop, or evenly at a rate; three windows that make so many seconds.

    Args:
        address: Of the server.
        model: The model's name.
        shape: Of its input `x`.
        in_flight: Calls under way at any moment; of no account at a rate.
        seconds: How long.
        rate: Calls a second that are begun whatever becomes of those before them; 0 for a
            closed loop.

    Raises:
        Unfit: The server does not tell what perf_analyzer wants to know.
    """
    core = str(max(os.sched_getaffinity(0)))
    dims = ",".join(map(str, shape))
    how = ["--concurrency-range", str(in_flight)]
    if rate:
        how = ["--request-rate-range", f"{rate:g}"]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "found.csv"
        done = subprocess.run(
            [
                *("taskset", "-c", core, str(PROGRAM), "-m", model, "-i", "grpc", "-u", address),
                *("-b", "1", "--shape", f"x:{dims}", "--async", "--max-threads", "1"),
                *(*how, "-f", str(table)),
                *("--measurement-interval", str(round(1000 * seconds / _WINDOWS))),
                *("--stability-percentage", str(_AGREE), "--max-trials", str(_WINDOWS)),
            ],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        said = done.stdout + done.stderr
        if not table.exists():
            raise Unfit(said.strip().splitlines()[-1] if said.strip() else "it said nothing")
        (row,) = csv.DictReader(table.read_text().splitlines())
    count = re.search(r"Request count: (\d+)", said)
    return Sample(
        calls=int(count[1]) if count else 0,
        errors=0 if done.returncode == 0 else 1,
        p50=float(row["p50 latency"]),
        p99=float(row["p99 latency"]),
        throughput=float(row["Inferences/Second"]),
        first_error="" if done.returncode == 0 else said.strip().splitlines()[-1],
    )
