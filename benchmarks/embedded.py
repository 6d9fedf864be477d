"""One process beside onnxruntime called directly (`python -m benchmarks.embedded`).

Calls are paired: the same session options, the same arrays, round by round in turn, each in the
one program. Instructions are counted by valgrind's cachegrind where it is installed, as the
difference of two runs, so that starting costs nothing. Starts are fresh processes. Results go to
benchmarks/results/embedded.{md,json}.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import psutil

from benchmarks import machine, models, report
from benchmarks.compare import save
from modelyard import cpus
from modelyard.client import Client
from modelyard.embedded import AsyncYard, Yard

DIRECT = "onnxruntime, directly"
YARD, ASYNC, SERVE = "`Yard`", "`AsyncYard`", "`Client` to `modelyard serve`, unix socket"
# Seconds of one round of one caller, about.
_ROUND = 0.15

START = """
import json, sys, time
began = time.perf_counter()
import numpy as np
{imports}
imported = time.perf_counter()
x = np.zeros((1, 64), np.float32)
{work}
answered = time.perf_counter()
import psutil
print(json.dumps([imported - began, answered - imported, psutil.Process().memory_info().rss]))
"""
DIRECT_IMPORTS, DIRECT_WORK = (
    "import onnxruntime",
    "onnxruntime.InferenceSession(sys.argv[1]).run(None, {'x': x})",
)
YARD_IMPORTS, YARD_WORK = (
    "from modelyard.embedded import Yard",
    "yard = Yard({'m': sys.argv[1]}); yard.infer('m', {'x': x})",
)
# The same number of calls after the same start, as often as the last argument says.
COUNTED = """
import sys
import numpy as np
x = np.zeros((1, 64), np.float32)
if sys.argv[2] == "direct":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(sys.argv[1], options)
    call = lambda: session.run(None, {"x": x})
else:
    from modelyard.embedded import Yard
    yard = Yard({"m": sys.argv[1]}, threads=1)
    call = lambda: yard.infer("m", {"x": x})
for _ in range(int(sys.argv[3])):
    call()
"""


def session(path: Path) -> ort.InferenceSession:
    """A session with the options of a host."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = cpus.available()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def timed(call: Callable[[], object], calls: int) -> float:
    """Microseconds a call."""
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls * 1e6


def paired(path: Path, x: Any, address: str, rounds: int) -> dict[str, list[float]]:
    """Microseconds a call of each caller, a figure a round."""
    direct, feeds = session(path), {"x": x}
    with Yard({"m": path}) as yard, Client(address) as client, asyncio.Runner() as runner:
        other = AsyncYard({"m": path})

        async def awaited(calls: int) -> float:
            began = time.perf_counter()
            for _ in range(calls):
                await other.infer("m", feeds)
            return (time.perf_counter() - began) / calls * 1e6

        callers: dict[str, Callable[[int], float]] = {
            DIRECT: lambda calls: timed(lambda: direct.run(None, feeds), calls),
            YARD: lambda calls: timed(lambda: yard.infer("m", feeds), calls),
            ASYNC: lambda calls: runner.run(awaited(calls)),
            SERVE: lambda calls: timed(lambda: client.infer(path.stem, feeds), calls),
        }
        calls = {k: max(3, min(3000, int(_ROUND * 1e6 / run(20)))) for k, run in callers.items()}
        spent: dict[str, list[float]] = {name: [] for name in callers}
        for _ in range(rounds):
            for name, run in callers.items():
                spent[name].append(run(calls[name]))
        runner.run(other.close())
    return spent


class Serving:
    """`modelyard serve` of some files, over a unix socket."""

    def __init__(self, folder: Path, files: list[Path]) -> None:
        self.began = time.perf_counter()
        command = [sys.executable, "-m", "modelyard", "serve", "--json", "--metrics-port", "0"]
        command += ["--listen", f"unix:{folder}/s", *map(str, files)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        self.address: str = json.loads(self.process.stdout.readline())["address"]

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


def started(program: str, path: Path) -> tuple[float, float, float]:
    """Seconds of imports and from there to the first answer, and MiB then."""
    ended = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    imports, start, rss = json.loads(ended.stdout)
    return imports, start, rss / 2**20


def served(path: Path) -> tuple[float, float, float]:
    """The same of `modelyard serve`; its imports are those of a process that does no more.

    Both count from the start of the interpreter.
    """
    only = "import modelyard.cli.app, services.embedded.models, services.embedded.server"
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", f"{only}; print('done', flush=True)"], stdout=subprocess.PIPE
    ) as importing:
        assert importing.stdout is not None
        importing.stdout.readline()
        imports = time.perf_counter() - began
    with tempfile.TemporaryDirectory(prefix="embedded-") as folder:
        serving = Serving(Path(folder), [path])
        with Client(serving.address) as client:
            client.infer(path.stem, {"x": np.zeros((1, models.WIDTH), np.float32)})
        answered = time.perf_counter() - serving.began
        rss = psutil.Process(serving.process.pid).memory_info().rss
        serving.stop()
    return imports, answered - imports, rss / 2**20


def starts(path: Path, rounds: int) -> dict[str, list[tuple[float, float, float]]]:
    """Imports, start and memory of each way, a figure a round."""
    ways: dict[str, Callable[[], tuple[float, float, float]]] = {
        DIRECT: lambda: started(START.format(imports=DIRECT_IMPORTS, work=DIRECT_WORK), path),
        YARD: lambda: started(START.format(imports=YARD_IMPORTS, work=YARD_WORK), path),
        "`modelyard serve`": lambda: served(path),
    }
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


def instructions(path: Path, calls: int = 1000) -> dict[str, float] | None:
    """Instructions a call, by cachegrind; None where there is no valgrind."""
    if shutil.which("valgrind") is None:
        return None

    def count(who: str, times: int) -> int:
        ended = subprocess.run(
            [
                *(
                    "valgrind",
                    "--tool=cachegrind",
                    "--cache-sim=no",
                    "--cachegrind-out-file=/dev/null",
                ),
                *(sys.executable, "-c", COUNTED, str(path), who, str(times)),
            ],
            capture_output=True,
            text=True,
            check=True,
            # Else the order of sets, and threads that spin, differ from process to process.
            env={**os.environ, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"},
        )
        line = next(text for text in ended.stderr.splitlines() if "I   refs" in text)
        return int(line.rpartition(":")[2].replace(",", ""))

    def usual(who: str, times: int) -> float:
        return statistics.median(count(who, times) for _ in range(3))

    return {
        name: (usual(who, 2 * calls) - usual(who, calls)) / calls
        for name, who in ((DIRECT, "direct"), (YARD, "yard"))
    }


def _calls_table(found: dict[str, dict[str, list[float]]]) -> str:
    rows = []
    for model, spent in found.items():
        for name, rounds in spent.items():
            more = [a - b for a, b in zip(rounds, spent[DIRECT], strict=True)]
            low, middle, high = statistics.quantiles(more, n=4)
            extra = "" if name == DIRECT else f"{middle:,.1f} ({low:,.1f} to {high:,.1f})"
            rows.append([model, name, f"{statistics.median(rounds):,.1f}", extra])
    head = ["call", "by", "us a call", "more than directly (quartiles)"]
    return report.table(head, rows)


def _starts_table(found: dict[str, list[tuple[float, float, float]]]) -> str:
    rows = []
    for name, rounds in found.items():
        imports, start, rss = (statistics.median(column) for column in zip(*rounds, strict=True))
        rows.append([name, f"{imports:.2f} s", f"{start * 1e3:,.0f} ms", f"{rss:.0f} MiB"])
    return report.table(["", "imports", "from there to the first answer", "memory then"], rows)


def main() -> None:
    """Measures all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--starts", type=int, default=7)
    arguments = parser.parse_args()
    facts = machine.describe()
    with tempfile.TemporaryDirectory(prefix="embedded-") as text:
        folder = Path(text)
        mlp, identity = models.mlp(folder / "mlp.onnx"), models.identity(folder / "identity.onnx")
        # The identity's own run is a copy of its input.
        calls = {"MLP, 1x64 FP32": (mlp, np.zeros((1, models.WIDTH), np.float32))}
        for size in (64 << 10, 1 << 20, 64 << 20):
            name = (
                f"identity, {size >> 10:,} KiB" if size < 1 << 20 else f"identity, {size >> 20} MiB"
            )
            calls[name] = (identity, np.zeros(size // 4, np.float32))
        serving = Serving(folder, [mlp, identity])
        try:
            spent = {
                name: paired(path, x, serving.address, arguments.rounds)
                for name, (path, x) in calls.items()
            }
        finally:
            serving.stop()
        began = starts(mlp, arguments.starts)
        counted = instructions(mlp)
    lines = [f"# In one process\n\n{report.machine(facts)}"]
    lines.append(f"Medians of {arguments.rounds} paired rounds.\n\n{_calls_table(spent)}")
    if counted is not None:
        lines.append(
            f"Instructions of one call of the MLP, by cachegrind: {counted[DIRECT]:,.0f} directly,"
            f" {counted[YARD]:,.0f} through a `Yard`.\n"
        )
    lines.append(
        f"Medians of {arguments.starts} fresh processes each; the MLP.\n\n{_starts_table(began)}"
    )
    data = {"machine": facts, "spent": spent, "starts": began, "instructions": counted}
    save("embedded", "\n".join(lines), data)


if __name__ == "__main__":
    main()
