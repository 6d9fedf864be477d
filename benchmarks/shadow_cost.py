"""What recording and shadowing cost the calls that are served (`python -m benchmarks.shadow_cost`).

Calls at a rate that leaves the machine half idle. Each round goes through all scenes in an order
drawn by chance, with looks at nothing before, between and after them: a scene is compared with the
look before and the look after it, which met the same machine. A figure is the geometric mean of
those of its seconds: a noisy second weighs as one, however slow its calls. A scene's ratio is the
geometric mean over rounds, with Student's interval at 95 %; that of the scene "nothing" shows the
noise of the machine. Beside it stands the ratio of the p99 of all calls together, in which the
noisy seconds weigh most. The last scene is a process in the background that only spins: what it
costs, the kernel does not keep from live calls, whatever shadows do.
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
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import t

from benchmarks import machine, models, report
from benchmarks.compare import save
from benchmarks.load import Order
from benchmarks.processes import LoadClient, Yard, load_client, yard
from modelyard.cli.plan import gate
from modelyard.cli.route_yaml import parse
from modelyard.client import Client
from modelyard.registry.v1 import host_pb2
from modelyard.shadow.v1 import evaluation_pb2

MODEL = "mlp"
NOTHING = "nothing"
HANGS, CRASHES = "shadow of one that hangs", "shadow of one that crashes"
# A slow one takes some 50 times as long as a call does; one that hangs, for ever.
_SLOW_ROUNDS, _ENDLESS_ROUNDS = 60_000, 2**40
_SETTLE = 1.5
# Whether the one that crashes serves again; what asks is work, too.
_LOOK_EVERY = 2.0
# One that hangs or crashes is looked at for so many seconds: a replay of the first is given up and
# rested from twice in them, and the second started again once, as a rule, later ever less often.
_LONG = 40


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
        while during is not None and not stop.wait(_LOOK_EVERY):
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


def killer(registry: Client, version: int) -> Callable[[], None]:
    """Kills the candidate's hosts whenever one serves."""

    def kill() -> None:
        for host in registry.hosts(MODEL):
            serves = host.pool == "shadow" and host.state == host_pb2.Host.STATE_SERVING
            if serves and host.version.endswith(f"/{version}"):
                os.kill(host.pid, signal.SIGKILL)

    return kill


def told(values: list[float], level: float = 0.95) -> str:
    """The geometric mean, with Student's interval of the logarithms' mean."""
    logs = [math.log(value) for value in values]
    mean, at = statistics.fmean(logs), (1 + level) / 2
    half = t.ppf(at, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    mid, lower, upper = (math.exp(mean + by) for by in (0.0, -half, half))
    return f"{mid:.2f} ({lower:.2f} to {upper:.2f})"


def visit(client: LoadClient, order: Order, seconds: int) -> Visit:
    """Measures so many seconds, one by one."""
    # What begins with a scene is not what it costs: routes change, hosts and evaluations start.
    time.sleep(_SETTLE)
    samples = [client.measure(order) for _ in range(seconds)]
    return Visit(tuple(tuple(s.times) for s in samples), sum(s.errors for s in samples))


def together(visits: Iterable[Visit]) -> float:
    """The p99 of all calls."""
    return float(np.percentile([t for v in visits for times in v.seconds for t in times], 99))


@dataclass(frozen=True, slots=True)
class Compared:
    """A scene of a round, between two looks at nothing."""

    before: Visit
    seen: Visit
    after: Visit

    def ratio(self, q: float) -> float:
        """Of the scene's percentile to the mean of the others'."""
        base = statistics.geometric_mean((self.before.percentile(q), self.after.percentile(q)))
        return self.seen.percentile(q) / base


def row(scene: str, compared: list[Compared]) -> list[str]:
    """What is told of a scene."""
    p50, p99 = (told([c.ratio(q) for c in compared]) for q in (50.0, 99.0))
    base = together(visit for c in compared for visit in (c.before, c.after))
    seen = together(c.seen for c in compared)
    all_, errors = f"{seen / base:.2f}", sum(c.seen.errors for c in compared)
    return [scene, p50, p99, all_, f"{base:,.0f} us", f"{seen:,.0f} us", str(errors)]


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=10, help="of a scene, and around it")
    parser.add_argument("--rate", type=float, default=400.0)
    parser.add_argument("--only", nargs="*", default=[], help="scenes; nothing is kept then")
    given = parser.parse_args()
    facts = machine.describe()
    found: dict[str, list[Compared]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as held, load_client() as client:
        folder = Path(held)
        with yard(folder) as served, Client(f"unix:{served.layout.registry_socket}") as registry:

            def candidate(artifact: Path) -> int:
                return served.client.register(MODEL, artifact).name.number

            served.client.register(MODEL, models.mlp(folder / "one.onnx"), label="live", wait=True)
            equal = candidate(models.mlp(folder / "two.onnx", seed=1))
            slow = candidate(models.slow(folder / "slow.onnx", _SLOW_ROUNDS))
            hangs = candidate(models.slow(folder / "endless.onnx", _ENDLESS_ROUNDS))
            crashes = candidate(models.mlp(folder / "three.onnx", seed=2))
            request = folder / "request"
            request.write_bytes(models.request(MODEL, (1, models.WIDTH)))
            order = Order(served.address, str(request), 1, 1.0, given.rate, keep=True)
            scenes: dict[str, Callable[[], AbstractContextManager[None]]] = {
                NOTHING: nullcontext,
                "every call recorded": lambda: tapped(served),
                "shadow of an equal candidate": lambda: shadowed(served, equal),
                "shadow of one that is 50 times slower": lambda: shadowed(served, slow),
                HANGS: lambda: shadowed(served, hangs),
                CRASHES: lambda: shadowed(served, crashes, killer(registry, crashes)),
                "no shadow, but a spinner in the background": spinning,
            }
            if unknown := set(given.only) - set(scenes):
                parser.error(f"no such scene: {', '.join(sorted(unknown))}")
            if given.only:
                scenes = {scene: scenes[scene] for scene in given.only}
            rng = random.Random(1)
            visit(client, order, given.seconds)
            for number in range(given.rounds):
                before = visit(client, order, given.seconds // 2)
                for scene in rng.sample(list(scenes), len(scenes)):
                    with scenes[scene]():
                        seconds = _LONG if scene in (HANGS, CRASHES) else given.seconds
                        seen = visit(client, order, seconds)
                    after = visit(client, order, given.seconds // 2)
                    found[scene].append(Compared(before, seen, after))
                    before = after
                said = (f"{scene} {found[scene][-1].ratio(99.0):.2f}" for scene in scenes)
                print(f"{number + 1}/{given.rounds}, p99:", ", ".join(said), flush=True)
    rows = [row(scene, found[scene]) for scene in scenes]
    head = ["scene", "p50 ratio", "p99 ratio", "of all calls", "without", "with", "failed calls"]
    how = (
        f"{given.rounds} rounds at {given.rate:g} calls a second (a 1x64 MLP): of {given.seconds} s"
        f" a scene ({_LONG} where one hangs or crashes), in an order\ndrawn by chance, with"
        f" {given.seconds // 2} s of nothing before and after each. Ratios of the geometric means"
        " of the seconds' percentiles,\nwith 95 % intervals over rounds; then the p99 of all calls"
        " together. Shadow service, archive and shadow's hosts run\nwhere nothing else wants the"
        " processor.\n\n"
    )
    title = "# What recording and shadowing cost served calls\n\n"
    text = title + report.machine(facts) + "\n" + how + report.table(head, rows)
    if given.only:
        print(text)
        return
    data = {
        scene: [{f"p{q:g}": round(c.ratio(q), 3) for q in (50.0, 99.0)} for c in compared]
        for scene, compared in found.items()
    }
    save("shadow-cost", text, {"machine": facts, "rounds": data})


if __name__ == "__main__":
    main()
