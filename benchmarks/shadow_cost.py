"""What recording and shadowing cost the calls that are served (`python -m benchmarks.shadow_cost`).

Calls at a rate that leaves the machine half idle. Each round goes through all scenes in an order
drawn by chance. A scene's figure in a round is the geometric mean of those of its seconds: a noisy
second weighs as one, however slow its calls. Each round is twice without anything: a scene's ratio
is the geometric mean, over rounds, of its figure to the mean of these two, with Student's interval
at 95 %; and the second of them to the first, the scene "nothing", shows the noise of the machine.
Beside it stands the ratio of the p99 of all calls together, in which the noisy seconds weigh most.
The last scene is a process in the background that only spins: what it costs, the kernel does not
keep from live calls, whatever shadows do.
Results go to benchmarks/results/shadow-cost.{md,json}.
"""

import argparse
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from benchmarks import machine, models, report
from benchmarks.compare import save
from benchmarks.load import Order
from benchmarks.processes import LoadClient, Yard, load_client, yard
from modelyard.cli.plan import gate
from modelyard.cli.route_yaml import parse
from modelyard.registry.v1 import host_pb2
from modelyard.shadow.v1 import evaluation_pb2

MODEL = "mlp"
WITHOUT, NOTHING = "without anything", "nothing"
CRASHES = "shadow of one that crashes"
# A slow one takes some 50 times as long as a call does.
_SLOW_ROUNDS = 60_000
_SETTLE = 1.5
# One that crashes is looked at in a moment of its first so many seconds that is drawn by chance: it
# is started again once in them, as a rule, and ever less often afterwards.
_LIFE = 30.0


@dataclass(frozen=True, slots=True)
class Visit:
    """What a scene showed in a round: the times of its calls in microseconds, second by second."""

    seconds: tuple[tuple[float, ...], ...]
    errors: int

    def percentile(self, q: float) -> float:
        """The geometric mean of the percentiles of its seconds."""
        logs = [math.log(np.percentile(times, q)) for times in self.seconds]
        return math.exp(statistics.fmean(logs))


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


def ratio(values: list[float], level: float = 0.95) -> str:
    """The geometric mean, with Student's interval of the logarithms' mean."""
    logs = [math.log(value) for value in values]
    mean, at = statistics.fmean(logs), (1 + level) / 2
    half = t.ppf(at, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    mid, lower, upper = (math.exp(mean + by) for by in (0.0, -half, half))
    return f"{mid:.2f} ({lower:.2f} to {upper:.2f})"


def visit(client: LoadClient, order: Order, seconds: int, settle: float) -> Visit:
    """Measures so many seconds of a scene, one by one."""
    # What begins with a scene is not what it costs: routes change, hosts and evaluations start.
    time.sleep(settle)
    samples = [client.measure(order) for _ in range(seconds)]
    return Visit(tuple(tuple(s.times) for s in samples), sum(s.errors for s in samples))


def together(visits: Iterable[Visit]) -> float:
    """The p99 of all calls."""
    return float(np.percentile([t for v in visits for times in v.seconds for t in times], 99))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rate", type=float, default=400.0)
    parser.add_argument("--only", nargs="*", default=[], help="scenes; nothing is kept then")
    given = parser.parse_args()
    facts = machine.describe()
    found: dict[str, list[Visit]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as held, load_client() as client:
        folder = Path(held)
        with yard(folder) as served:
            served.client.register(MODEL, models.mlp(folder / "one.onnx"), label="live", wait=True)
            equal = served.client.register(MODEL, models.mlp(folder / "two.onnx", seed=1))
            slow = served.client.register(MODEL, models.slow(folder / "slow.onnx", _SLOW_ROUNDS))
            crash = served.client.register(MODEL, models.mlp(folder / "three.onnx", seed=2))
            request = folder / "request"
            request.write_bytes(models.request(MODEL, (1, 64)))
            order = Order(served.address, str(request), 1, 1.0, given.rate, keep=True)
            visit(client, order, given.seconds, _SETTLE)
            kill = killer(served, crash.name.number)
            scenes: dict[str, Callable[[], Any]] = {
                WITHOUT: nullcontext,
                NOTHING: nullcontext,
                "every call recorded": lambda: tapped(served),
                "shadow of an equal candidate": lambda: shadowed(served, equal.name.number),
                "shadow of one that is 50 times slower": lambda: shadowed(served, slow.name.number),
                CRASHES: lambda: shadowed(served, crash.name.number, kill),
                "no shadow, but a spinner in the background": spinning,
            }
            if unknown := set(given.only) - set(scenes):
                parser.error(f"no such scene: {', '.join(sorted(unknown))}")
            if given.only:
                scenes = {scene: scenes[scene] for scene in (WITHOUT, NOTHING, *given.only)}
            rng = random.Random(1)
            for number in range(given.rounds):
                for scene in rng.sample(list(scenes), len(scenes)):
                    settle = rng.uniform(_SETTLE, _LIFE) if scene == CRASHES else _SETTLE
                    with scenes[scene]():
                        found[scene].append(visit(client, order, given.seconds, settle))
                now = found[WITHOUT][-1].percentile(99)
                seen = (f"{scene} {found[scene][-1].percentile(99) / now:.2f}" for scene in scenes)
                print(f"{number + 1}/{given.rounds}, p99:", ", ".join(seen), flush=True)
    rows = []
    for scene in (scene for scene in scenes if scene != WITHOUT):
        visits = found[scene]
        bases = [found[WITHOUT]] if scene == NOTHING else [found[WITHOUT], found[NOTHING]]
        p50, p99 = (
            ratio(
                [
                    seen.percentile(q) / statistics.geometric_mean(b.percentile(q) for b in base)
                    for seen, *base in zip(visits, *bases, strict=True)
                ]
            )
            for q in (50.0, 99.0)
        )
        base, with_ = together(chain(*bases)), together(visits)
        errors = sum(v.errors for v in visits)
        all_ = f"{with_ / base:.2f}"
        rows.append([scene, p50, p99, all_, f"{base:,.0f} us", f"{with_:,.0f} us", str(errors)])
    head = ["scene", "p50 ratio", "p99 ratio", "of all calls", "without", "with", "failed calls"]
    told = (
        f"{given.rounds} rounds of {given.seconds} s a scene at {given.rate:g} calls a second"
        " (a 1x64 MLP), in an order drawn by chance.\nRatios of the geometric means of the seconds'"
        " percentiles, with 95 % intervals over rounds; then the p99 of all calls\ntogether."
        " Shadow service, archive and shadow's hosts run where nothing else wants the"
        " processor.\n\n"
    )
    title = "# What recording and shadowing cost served calls\n\n"
    text = title + report.machine(facts) + "\n" + told + report.table(head, rows)
    if given.only:
        print(text)
        return
    data = {
        scene: [
            {"p50": round(v.percentile(50), 1), "p99": round(v.percentile(99), 1)} for v in visits
        ]
        for scene, visits in found.items()
    }
    save("shadow-cost", text, {"machine": facts, "rounds": data})


if __name__ == "__main__":
    main()
