"""What recording and shadowing cost the calls that are served (`python -m benchmarks.shadow_cost`).

Calls at a rate that leaves the machine half idle, round by round in turn: without anything, then
with one scene. A ratio is the median over rounds of that round's ratio to the one before it, with
an interval of that median by its order statistics. The first scene is nothing at all: what it
shows is the noise of the machine. The last is a process in the background that only spins: what it
costs, the kernel does not keep from live calls, whatever shadows do.
Results go to benchmarks/results/shadow-cost.{md,json}.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scipy.stats import binom

from benchmarks import machine, models, report
from benchmarks.compare import save
from benchmarks.load import Order, Sample
from benchmarks.processes import LoadClient, Yard, load_client, yard
from modelyard.cli.plan import gate
from modelyard.cli.route_yaml import parse
from modelyard.registry.v1 import host_pb2
from modelyard.shadow.v1 import evaluation_pb2

MODEL = "mlp"
# A slow one takes some 50 times as long as a call does.
_SLOW_ROUNDS = 60_000
_SETTLE = 1.5


@contextmanager
def tapped(served: Yard) -> Iterator[None]:
    """Every call is recorded."""
    served.client.replace_route(MODEL, parse("tap: {sample: 1.0}"))
    try:
        yield
    finally:
        served.client.remove_route(MODEL)


@contextmanager
def shadowed(
    served: Yard, version: int, during: Callable[[], None] | None = None
) -> Iterator[None]:
    """Every call is replayed on a candidate, and one in five on the baseline."""
    plan = evaluation_pb2.Plan(sample=1.0, gates=[gate("errors=1")], canary=True)
    name = served.client.start_evaluation(MODEL, [version], plan=plan).name
    running = evaluation_pb2.Evaluation.STATE_RUNNING
    until = time.monotonic() + 60
    while served.client.report(name).evaluation.state != running:
        if time.monotonic() > until:
            raise SystemExit(f"{name} does not run: {served.client.report(name).evaluation.reason}")
        time.sleep(0.1)
    stop = threading.Event()

    def again() -> None:
        while during is not None and not stop.wait(0.5):
            during()

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        served.client.stop_evaluation(name)


@contextmanager
def spinning() -> Iterator[None]:
    """A process in the background never rests."""
    code = "from modelyard import background; background.enter()\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def killer(served: Yard, version: int) -> Callable[[], None]:
    """Kills the candidate's hosts whenever one serves."""

    def kill() -> None:
        for host in served.client.hosts(MODEL):
            serves = host.pool == "shadow" and host.state == host_pb2.Host.STATE_SERVING
            if serves and host.version.endswith(f"/{version}"):
                os.kill(host.pid, signal.SIGKILL)

    return kill


def interval(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """Of the median, by order statistics: at this level, or all there is."""
    ordered, tail = sorted(values), (1 - level) / 2
    out = 0
    while binom.cdf(out, len(values), 0.5) <= tail:
        out += 1
    out = max(out - 1, 0)
    return ordered[out], ordered[-1 - out]


def ratio(values: list[float]) -> str:
    lower, upper = interval(values)
    return f"{statistics.median(values):.2f} ({lower:.2f} to {upper:.2f})"


def measure(client: LoadClient, order: Order) -> Sample:
    time.sleep(_SETTLE)
    return client.measure(order)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--only", nargs="*", default=[], help="scenes; nothing is kept then")
    given = parser.parse_args()
    facts = machine.describe()
    found: dict[str, list[tuple[Sample, Sample]]] = {}
    with tempfile.TemporaryDirectory() as held, load_client() as client:
        folder = Path(held)
        with yard(folder) as served:
            served.client.register(MODEL, models.mlp(folder / "one.onnx"), label="live", wait=True)
            equal = served.client.register(MODEL, models.mlp(folder / "two.onnx", seed=1))
            slow = served.client.register(MODEL, models.slow(folder / "slow.onnx", _SLOW_ROUNDS))
            crash = served.client.register(MODEL, models.mlp(folder / "three.onnx", seed=2))
            request = folder / "request"
            request.write_bytes(models.request(MODEL, (1, 64)))
            order = Order(served.address, str(request), 1, given.seconds, given.rate)
            client.measure(order)
            kill = killer(served, crash.name.number)
            scenes: dict[str, Callable[[], Any]] = {
                "nothing": nullcontext,
                "every call recorded": lambda: tapped(served),
                "shadow of an equal candidate": lambda: shadowed(served, equal.name.number),
                "shadow of one that is 50 times slower": lambda: shadowed(served, slow.name.number),
                "shadow of one that crashes": lambda: shadowed(served, crash.name.number, kill),
                "no shadow, but a spinner in the background": spinning,
            }
            for scene, enter in scenes.items():
                if given.only and scene not in given.only:
                    continue
                pairs = found[scene] = []
                for _ in range(given.rounds):
                    without = measure(client, order)
                    with enter():
                        pairs.append((without, measure(client, order)))
                print(scene, [round(b.p99 / a.p99, 3) for a, b in pairs], flush=True)
    rows = []
    for scene, pairs in found.items():
        p50 = ratio([b.p50 / a.p50 for a, b in pairs])
        p99 = ratio([b.p99 / a.p99 for a, b in pairs])
        base = statistics.median(a.p99 for a, _ in pairs)
        with_ = statistics.median(b.p99 for _, b in pairs)
        errors = sum(b.errors for _, b in pairs)
        rows.append([scene, p50, p99, f"{base:,.0f} us", f"{with_:,.0f} us", str(errors)])
    head = ["scene", "p50 ratio", "p99 ratio", "p99 without", "p99 with", "failed calls"]
    told = (
        f"{given.rounds} pairs of rounds of {given.seconds:g} s at {given.rate:g} calls a second"
        " (a 1x64 MLP), in turn.\nShadow service, archive and the shadow's hosts run where nothing"
        " else wants the processor.\n\n"
    )
    title = "# What recording and shadowing cost served calls\n\n"
    text = title + report.machine(facts) + "\n" + told + report.table(head, rows)
    data = {
        scene: [{"without": asdict(a), "with": asdict(b)} for a, b in pairs]
        for scene, pairs in found.items()
    }
    if given.only:
        print(text)
        return
    save("shadow-cost", text, {"machine": facts, "scenes": data})


if __name__ == "__main__":
    main()
