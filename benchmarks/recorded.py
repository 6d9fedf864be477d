"""What recording costs the calls that are served (`python -m benchmarks.recorded`).

Calls of one model, at a rate. Pairs of blocks of a few seconds: in one every call is recorded, in
the other none, in an order drawn by chance, so that both meet the same machine. A block's figure is
the geometric mean of those of its seconds; a ratio is the geometric mean over pairs, with twice its
standard error, and beside it the ratio over all calls together. `--nothing` records in neither:
what the machine itself does to such a ratio. The archive looks at the log less often than blocks
change, and works in both kinds: what is seen is the gateway's part and the recorder's;
`benchmarks.shadow_cost` sees the archive's, too. Results go to
benchmarks/results/recorded.{md,json}.
"""

import argparse
import asyncio
import gc
import math
import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import grpc.aio
import numpy as np

from benchmarks import machine, models, report
from benchmarks.compare import save
from benchmarks.load import METHOD, due, exact_loop
from benchmarks.processes import Yard, yard
from modelyard.cli.route_yaml import parse

MODEL = "mlp"
# Both are routes, so that a block begins with the same change.
_NOT, _RECORDED = parse("deadline: 29s"), parse("{deadline: 29s, tap: {sample: 1.0}}")
_PERCENTILES = (50, 90, 95, 99)
_WARM = 50
_TIMEOUT = 30.0
# Of a block, in seconds: what is not looked at, and what is.
_SETTLE, _LOOK = 0.7, 2

# Of each pair: of each of its two blocks, recorded first, the microseconds of the calls of each
# of its seconds.
Pair = tuple[list[list[float]], list[list[float]]]


async def load(served: Yard, rate: float, pairs: int, nothing: bool) -> list[Pair]:
    """Calls in pairs of blocks."""
    rng = random.Random(1)
    payload = models.request(MODEL, (1, models.WIDTH))
    found: list[Pair] = []
    async with grpc.aio.insecure_channel(served.address) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)

        async def one(moment: float, into: list[float]) -> None:
            await call(payload, timeout=_TIMEOUT)
            into.append((time.perf_counter() - moment) * 1e6)

        async def calls(seconds: float) -> list[float]:
            times: list[float] = []
            async with asyncio.TaskGroup() as under_way:
                async for moment in due(rate, seconds):
                    under_way.create_task(one(moment, times))
            return times

        for _ in range(_WARM):
            await call(payload, timeout=_TIMEOUT)
        for _ in range(pairs):
            blocks: dict[bool, list[list[float]]] = {}
            for recorded in rng.sample((True, False), 2):
                route = _RECORDED if recorded and not nothing else _NOT
                await asyncio.to_thread(served.client.replace_route, MODEL, route)
                await calls(_SETTLE)
                blocks[recorded] = [await calls(1.0) for _ in range(_LOOK)]
            found.append((blocks[True], blocks[False]))
    return found


def row(q: float, pairs: list[Pair]) -> list[str]:
    """What is told of a percentile."""
    logs: list[float] = []
    together: dict[int, list[float]] = defaultdict(list)
    for pair in pairs:
        means = []
        for which, block in enumerate(pair):
            means.append(statistics.fmean(math.log(np.percentile(times, q)) for times in block))
            together[which] += [took for times in block for took in times]
        logs.append(means[0] - means[1])
    mean, error = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    mid, lower, upper = (math.exp(mean + by * error) for by in (0, -2, 2))
    on, off = (float(np.percentile(together[which], q)) for which in (0, 1))
    told = f"{mid:.3f} ({lower:.3f} to {upper:.3f})"
    return [f"p{q:g}", told, f"{on / off:.3f}", f"{off:,.0f} us", f"{on:,.0f} us"]


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=80)
    parser.add_argument("--rate", type=float, default=400.0)
    parser.add_argument("--nothing", action="store_true", help="nothing is kept then")
    given = parser.parse_args()
    facts = machine.describe()
    with tempfile.TemporaryDirectory() as held, yard(Path(held)) as served:
        artifact = models.mlp(Path(held) / "mlp.onnx")
        served.client.register(MODEL, artifact, label="live", wait=True)
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        # Pauses of this client are nobody's cost.
        gc.collect()
        gc.freeze()
        with asyncio.Runner(loop_factory=exact_loop) as runner:
            pairs = runner.run(load(served, given.rate, given.pairs, given.nothing))
    rows = [row(q, pairs) for q in _PERCENTILES]
    head = ["", "ratio", "of all calls", "not recorded", "recorded"]
    if given.nothing:
        print(report.table(head, rows))
        return
    told = (
        f"{given.pairs} pairs of {_LOOK} s and {_LOOK} s at {given.rate:g} calls a second of a 1x64"
        " MLP: in one all calls are recorded, in the\nother none. Ratios with twice their standard"
        " error; then those of all calls together.\n\n"
    )
    text = "# What recording costs served calls\n\n" + report.machine(facts) + "\n" + told
    text += report.table(head, rows)
    save("recorded", text, {"machine": facts, "rows": rows})


if __name__ == "__main__":
    main()
