"""Who is measured: each calls the same hosts, through the gateway or past it."""

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from benchmarks.load import METHOD
from benchmarks.peers.install import home
from benchmarks.tail.stage import Stage

DEADLINE = 3.0
# Finds the peers; grpc's own round robin spreads calls over them.
_ROUND_ROBIN = '{"loadBalancingConfig": [{"round_robin": {}}]}'

Send = Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Result:
    """Of one contender in one scene: latencies in seconds of calls that were answered."""

    contender: str
    latencies: tuple[float, ...] = field(repr=False)
    errors: int
    extra: float

    def quantile(self, q: float) -> float:
        """In milliseconds."""
        return float(np.quantile(self.latencies, q) * 1e3) if self.latencies else float("nan")


async def open_loop(send: Send, rate: float, calls: int) -> tuple[list[float], int]:
    """Sends calls at Poisson times, whatever became of those before.

    A latency counts from when its call was due, so that a client that falls behind hides nothing.
    """
    loop = asyncio.get_running_loop()
    chance = random.Random(7)
    latencies: list[float] = []
    errors = 0

    async def one(due: float) -> None:
        nonlocal errors
        try:
            await send()
        except grpc.aio.AioRpcError:
            errors += 1
        else:
            latencies.append(loop.time() - due)

    tasks = set()
    due = loop.time()
    for _ in range(calls):
        due += chance.expovariate(rate)
        delay = due - loop.time()
        if delay > 0:
            await asyncio.sleep(delay)
        task = asyncio.create_task(one(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    while tasks:
        await asyncio.wait(tasks)
    return latencies, errors


async def measure(name: str, stage: Stage, extra_load: float, rate: float, calls: int) -> Result:
    """Measures one contender."""
    async with AsyncExitStack() as ends:
        target, interceptors, stats = stage.address, [], None
        if name in ("bare channel", "hedge-python"):
            target = "ipv4:" + ",".join(stage.hosts)
        if name == "hedge-python":
            from hedge import HedgeConfig
            from hedge.interceptor import HedgedUnaryInterceptor

            interceptor = HedgedUnaryInterceptor(
                HedgeConfig(
                    percentile=1 - extra_load, budget_percent=extra_load * 100, estimated_rps=rate
                )
            )
            interceptors, stats = [interceptor], interceptor.stats
        channel = await ends.enter_async_context(
            grpc.aio.insecure_channel(
                target,
                options=(
                    ("grpc.service_config", _ROUND_ROBIN),
                    ("grpc.lb_policy_name", "round_robin"),
                ),
                interceptors=interceptors,
            )
        )
        infer: Any = channel.unary_unary(METHOD)

        async def send() -> bytes:
            answer: bytes = await infer(stage.request, timeout=DEADLINE)
            return answer

        # The sketches and the budget of those who hedge learn first.
        await open_loop(send, rate, int(rate * 5))
        before = _hedged(stage, stats)
        latencies, errors = await open_loop(send, rate, calls)
        extra = (_hedged(stage, stats) - before) / calls
    return Result(name, tuple(latencies), errors, extra)


def _hedged(stage: Stage, stats: Any) -> int:
    """Attempts beyond one a call, so far."""
    if stats is not None:
        return int(stats.snapshot().hedged_requests)
    return stage.extra()


def fetched() -> bool:
    """Makes the peer importable; tells whether it is there."""
    for packages in home("hedge").glob("lib/python3*/site-packages"):
        sys.path.append(str(packages))
        return True
    return False
