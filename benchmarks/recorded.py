"""What being recorded costs a call (`python -m benchmarks.recorded`).

Calls at a rate go by chance to a model whose calls are all recorded or to one whose are not: both
meet the same moments of the machine, so its noise is theirs alike. What recording costs whoever
calls meanwhile is not in the difference; that is what benchmarks.shadow_cost looks for. Results go
to benchmarks/results/recorded.{md,json}.
"""

import argparse
import asyncio
import gc
import os
import random
import tempfile
import time
from pathlib import Path

import grpc.aio
import numpy as np

from benchmarks import machine, models, report
from benchmarks.compare import save
from benchmarks.load import METHOD, due, exact_loop
from benchmarks.processes import yard
from modelyard.cli.route_yaml import parse

RECORDED, NOT = "one", "two"
_PERCENTILES = (50, 90, 99, 99.9)
_WARM = 50
_TIMEOUT = 30.0


async def load(address: str, rate: float, seconds: float) -> dict[str, list[float]]:
    """Calls both models; gives microseconds from when each call was due."""
    rng = random.Random(1)
    payloads = {model: models.request(model, (1, models.WIDTH)) for model in (RECORDED, NOT)}
    times: dict[str, list[float]] = {model: [] for model in payloads}
    async with grpc.aio.insecure_channel(address) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)

        async def one(model: str, moment: float) -> None:
            await call(payloads[model], timeout=_TIMEOUT)
            times[model].append((time.perf_counter() - moment) * 1e6)

        for model in payloads:
            for _ in range(_WARM):
                await call(payloads[model], timeout=_TIMEOUT)
        async with asyncio.TaskGroup() as calls:
            async for moment in due(rate, seconds):
                calls.create_task(one(rng.choice((RECORDED, NOT)), moment))
    return times


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--rate", type=float, default=400.0)
    given = parser.parse_args()
    facts = machine.describe()
    with tempfile.TemporaryDirectory() as held, yard(Path(held)) as served:
        for model in (RECORDED, NOT):
            artifact = models.mlp(Path(held) / f"{model}.onnx")
            served.client.register(model, artifact, label="live", wait=True)
        served.client.replace_route(RECORDED, parse("tap: {sample: 1.0}"))
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        # Pauses of this client are nobody's cost.
        gc.collect()
        gc.freeze()
        with asyncio.Runner(loop_factory=exact_loop) as runner:
            times = runner.run(load(served.address, given.rate, given.seconds))
    found = {
        model: {q: float(np.percentile(times[model], q)) for q in _PERCENTILES} for model in times
    }
    rows = [
        [f"p{q:g}", f"{on / off:.3f}", f"{off:,.0f} us", f"{on:,.0f} us"]
        for q in _PERCENTILES
        for on, off in [(found[RECORDED][q], found[NOT][q])]
    ]
    told = (
        f"{given.rate:g} calls a second for {given.seconds:g} s, each by chance to one of two 1x64"
        " MLPs; of one all calls are recorded.\n\n"
    )
    text = "# What being recorded costs a call\n\n" + report.machine(facts) + "\n" + told
    text += report.table(["", "ratio", "not recorded", "recorded"], rows)
    save("recorded", text, {"machine": facts, "calls": {m: len(times[m]) for m in times}, **found})


if __name__ == "__main__":
    main()
