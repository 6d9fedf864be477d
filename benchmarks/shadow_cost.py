"""What recording and shadowing cost the calls that are served (`python -m benchmarks.shadow_cost`).

Calls at a rate that leaves the machine half idle. A scene is set up once, and then seen in pairs of
blocks of a few seconds: in one it works, in the other nothing is recorded and every process of it
is stopped, so that both meet the same machine. All that a scene has to do, it does while it is
looked at: it is stopped whenever it is not, and what was recorded in between is worked off then.
Rests go by the clock and pass meanwhile, so it works more of the time than it would in use: what is
seen is rather too much than too little.

A ratio is that of a percentile of all calls of the one kind of block to that of the other, with a
95 % interval from a bootstrap over pairs (Efron and Tibshirani, An Introduction to the Bootstrap,
1993, chapter 13). Calls that met a stall of the machine itself (`benchmarks.stalls`) say nothing of
what ran beside them, and are left out; the ratio with them stands beside. Two scenes show what the
benchmark can see: in "nothing" nothing is recorded, and in the last a process in the background
only spins. Results go to benchmarks/results/shadow-cost.{md,json}.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from benchmarks import machine, models, report, stalls
from benchmarks.compare import save
from benchmarks.load import Order
from benchmarks.processes import LoadClient, Yard, load_client, yard
from modelyard.cli.plan import gate
from modelyard.cli.route_yaml import parse
from modelyard.client import Client
from modelyard.gateway.v1 import route_pb2
from modelyard.registry.v1 import host_pb2
from modelyard.shadow.v1 import evaluation_pb2

MODEL = "mlp"
# A slow one takes some 50 times as long as a call does; one that hangs, for ever.
_SLOW_ROUNDS, _ENDLESS_ROUNDS = 60_000, 2**40
# In seconds: of a block, what is looked at; before it, while a changed route settles; and how long
# a scene works before it is first looked at, so that what only its beginning costs is over.
_LOOK, _SETTLE, _BEGIN = 3.0, 0.3, 5.0
# What a stall held up is worked off after it, in seconds.
_CATCH_UP = 0.001
_RESAMPLED, _LEVEL = 2_000, 0.95
# The registry believes a report of hosts for ten seconds, and two blocks without may follow.
assert 2 * (_LOOK + _SETTLE) < 10.0
_OFF = "deadline: 29s"
HEAD = (
    *("scene", "p50 ratio", "p99 ratio", "without", "with", "p99 ratio of all calls"),
    *("left out without", "with", "failed calls"),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """What is looked at.

    Attributes:
        on: The route while it works.
        off: The route while it does not.
        processes: Those that work for it now.
        begun: Done each time it has begun to work.
    """

    on: route_pb2.Route
    off: route_pb2.Route
    processes: Callable[[], Sequence[psutil.Process]]
    begun: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True)
class Block:
    """What was seen of one block: the times of its calls, in microseconds.

    Attributes:
        clear: Of those that met no stall of the machine.
        every: Of all.
        errors: Calls that failed.
    """

    clear: npt.NDArray[np.float64]
    every: npt.NDArray[np.float64]
    errors: int


# While a scene worked, and while it did not.
Pair = tuple[Block, Block]
Of = Callable[[Block], npt.NDArray[np.float64]]


def behind(served: Yard) -> list[psutil.Process]:
    """All of a yard that is not on the path of served calls."""
    rooms = ("services.shadow", "services.archive", "gateway.recorder", "shadow-hosts.sock")
    found = {p.pid: p for room in rooms for p in served.processes(room)}
    for process in list(found.values()):
        with suppress(psutil.NoSuchProcess):
            found |= {child.pid: child for child in process.children(recursive=True)}
    return list(found.values())


def send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    """Sends them a signal; one may be over by now."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@contextmanager
def routed(served: Yard, on: str) -> Iterator[Scene]:
    """A route, while nothing is evaluated."""
    yield Scene(parse(on), parse(_OFF), lambda: behind(served))


@contextmanager
def shadowed(
    served: Yard, version: int, begun: Callable[[], object] = lambda: None
) -> Iterator[Scene]:
    """Every call is recorded, and offered to a candidate; one in five to the baseline, too."""
    served.client.replace_route(MODEL, parse(_OFF))
    plan = evaluation_pb2.Plan(sample=1.0, gates=[gate("errors=1")], canary=True)
    name = served.client.start_evaluation(MODEL, [version], plan=plan).name
    running = evaluation_pb2.Evaluation.STATE_RUNNING
    until = time.monotonic() + 60
    while served.client.report(name).evaluation.state != running:
        if time.monotonic() > until:
            raise SystemExit(f"{name} does not run: {served.client.report(name).evaluation.reason}")
        time.sleep(0.1)
    on = served.client.route(MODEL)
    on.etag = ""
    off = route_pb2.Route()
    off.CopyFrom(on)
    del off.shadow[:]
    try:
        yield Scene(on, off, lambda: behind(served), begun)
    finally:
        served.client.stop_evaluation(name)


@contextmanager
def spinning() -> Iterator[Scene]:
    """A process in the background never rests."""
    code = "from modelyard import background; background.enter()\nwhile True: pass"
    plain = parse(_OFF)
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            yield Scene(plain, plain, lambda: [psutil.Process(process.pid)])
        finally:
            process.kill()


def killer(registry: Client, version: int) -> Callable[[], None]:
    """Kills the candidate's hosts that serve."""

    def kill() -> None:
        for host in registry.hosts(MODEL):
            serves = host.pool == "shadow" and host.state == host_pb2.Host.STATE_SERVING
            if serves and host.version.endswith(f"/{version}"):
                os.kill(host.pid, signal.SIGKILL)

    return kill


def look(client: LoadClient, order: Order, during: AbstractContextManager[object]) -> Block:
    """Measures a block."""
    with stalls.watch() as watched:
        client.measure(replace(order, seconds=_SETTLE))
        with during:
            sample = client.measure(order)
    times = np.array(sample.times)
    met = [
        stalls.met(watched.stalls, due - _CATCH_UP, due + took / 1e6)
        for due, took in zip(sample.dues, sample.times, strict=True)
    ]
    return Block(times[~np.array(met, bool)], times, sample.errors)


def see(scene: Scene, client: LoadClient, order: Order, served: Yard, pairs: int) -> Iterator[Pair]:
    """Looks at a scene, pair by pair."""

    @contextmanager
    def works() -> Iterator[None]:
        send(scene.processes(), signal.SIGCONT)
        scene.begun()
        try:
            yield
        finally:
            send(scene.processes(), signal.SIGSTOP)

    rng = random.Random(1)
    served.client.replace_route(MODEL, scene.on)
    client.measure(replace(order, seconds=_BEGIN))
    send(scene.processes(), signal.SIGSTOP)
    try:
        for _ in range(pairs):
            blocks: dict[bool, Block] = {}
            for on in rng.sample((True, False), 2):
                served.client.replace_route(MODEL, scene.on if on else scene.off)
                blocks[on] = look(client, order, works() if on else nullcontext())
            yield blocks[True], blocks[False]
    finally:
        send(scene.processes(), signal.SIGCONT)


def clear(block: Block) -> npt.NDArray[np.float64]:
    """The times of calls that met no stall."""
    return block.clear


def every(block: Block) -> npt.NDArray[np.float64]:
    """The times of all calls."""
    return block.every


def ratio(pairs: Sequence[Pair], q: float, of: Of) -> float:
    """Of the percentile of all calls of the one kind of block to that of the other."""
    on, off = (
        np.concatenate([of(block) for block in blocks]) for blocks in zip(*pairs, strict=True)
    )
    on_q, off_q = (np.percentile(times, q, method="inverted_cdf") for times in (on, off))
    return float(on_q / off_q)


def with_interval(pairs: Sequence[Pair], q: float, of: Of) -> tuple[float, float, float]:
    """A ratio, and the two ends of its interval."""
    rng = np.random.default_rng(1)
    whole = len(pairs)
    counts = rng.multinomial(whole, np.full(whole, 1 / whole), _RESAMPLED)
    on, off = (_drawn([of(b) for b in blocks], counts, q) for blocks in zip(*pairs, strict=True))
    lower, upper = np.quantile(on / off, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return ratio(pairs, q, of), float(lower), float(upper)


def _drawn(
    blocks: Sequence[npt.NDArray[np.float64]], counts: npt.NDArray[np.int64], q: float
) -> npt.NDArray[np.float64]:
    """The percentile of all calls, with each block as often as each resample has it."""
    values = np.concatenate(blocks)
    order = np.argsort(values)
    block = np.repeat(np.arange(len(blocks)), [len(b) for b in blocks])[order]
    below = (np.cumsum(drawn[block]) for drawn in counts)
    return values[order][[np.searchsorted(c, q / 100 * c[-1]) for c in below]]


def row(title: str, pairs: Sequence[Pair]) -> list[str]:
    """What is told of a scene."""

    def cell(q: float, of: Of) -> str:
        return "{:.3f} ({:.3f} to {:.3f})".format(*with_interval(pairs, q, of))

    def left_out(blocks: Sequence[Block]) -> str:
        whole = sum(len(block.every) for block in blocks)
        return f"{1 - sum(len(block.clear) for block in blocks) / whole:.1%}"

    on, off = ([pair[which] for pair in pairs] for which in (0, 1))
    p99s = [np.percentile(np.concatenate([b.clear for b in blocks]), 99) for blocks in (off, on)]
    return [
        title,
        cell(50.0, clear),
        cell(99.0, clear),
        *(f"{p99:,.0f} us" for p99 in p99s),
        cell(99.0, every),
        left_out(off),
        left_out(on),
        str(sum(block.errors for block in on)),
    ]


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40, help="of each scene")
    parser.add_argument("--rate", type=float, default=400.0)
    parser.add_argument("--only", nargs="*", default=[], help="scenes; nothing is kept then")
    given = parser.parse_args()
    try:
        with stalls.watch():
            pass
    except PermissionError as error:
        parser.error(f"{error}: it needs CAP_SYS_NICE")
    facts = machine.describe()
    found: dict[str, list[Pair]] = {}
    rows: list[list[str]] = []
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
            order = Order(served.address, str(request), 1, _LOOK, given.rate, keep=True)
            scenes: dict[str, Callable[[], AbstractContextManager[Scene]]] = {
                "nothing": lambda: routed(served, _OFF),
                "every call recorded": lambda: routed(
                    served, "{deadline: 29s, tap: {sample: 1.0}}"
                ),
                "shadow of an equal candidate": lambda: shadowed(served, equal),
                "shadow of one that is 50 times slower": lambda: shadowed(served, slow),
                "shadow of one that hangs": lambda: shadowed(served, hangs),
                "shadow of one that crashes": lambda: shadowed(
                    served, crashes, killer(registry, crashes)
                ),
                "no shadow, but a spinner in the background": spinning,
            }
            if unknown := set(given.only) - set(scenes):
                parser.error(f"no such scene: {', '.join(sorted(unknown))}")
            for title in given.only or scenes:
                with scenes[title]() as scene:
                    pairs = found[title] = list(see(scene, client, order, served, given.pairs))
                rows.append(row(title, pairs))
                print(report.table(HEAD, rows[-1:]), flush=True)
    if given.only:
        return
    how = (
        f"{given.pairs} pairs of blocks of {_LOOK:g} s at {given.rate:g} calls a second (a 1x64"
        " MLP): in one the scene works, in the other\nit is stopped. Ratios of the percentiles of"
        " all calls, with 95 % intervals from a bootstrap over pairs; calls\nthat met a stall of"
        " the machine are left out. Shadow service, archive and shadow's hosts run where nothing"
        "\nelse wants the processor.\n\n"
    )
    title = "# What recording and shadowing cost served calls\n\n"
    text = title + report.machine(facts) + "\n" + how + report.table(HEAD, rows)
    data = {
        title: {
            f"p{q:g} {of.__name__}": [round(each, 4) for each in with_interval(pairs, q, of)]
            for of in (clear, every)
            for q in (50.0, 90.0, 95.0, 99.0, 99.9)
        }
        for title, pairs in found.items()
    }
    save("shadow-cost", text, {"machine": facts, "scenes": data})


if __name__ == "__main__":
    main()
