"""What the race costs when nothing goes wrong (`python -m benchmarks.race_cost`).

Paired, in one process: the stack over an endpoint that answers in the loop's next turn, with the
race and with the endpoint called directly, round by round in turn. Beside it the gateway's own
time for a call, which is the processor time of a gateway and its front over many calls. Results go
to benchmarks/results/race-cost.{md,json}.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from benchmarks import machine, models, report
from benchmarks.compare import save
from benchmarks.load import Order
from benchmarks.processes import cpu_seconds, load_client
from benchmarks.tail.stage import stage
from gateway.access_log import AccessLog
from gateway.call import INFER, Answer, Call
from gateway.defaults import Defaults
from gateway.fronts import envoy as envoy_front
from gateway.guards import Guards
from gateway.meter import Meter
from gateway.plan import Kind, Plan
from gateway.race import Racer
from gateway.replicas import Replicas
from gateway.router import Router
from gateway.stack import stack
from modelyard.catalog import (
    Catalog,
    Fallback,
    Hedge,
    Host,
    HostState,
    Label,
    Model,
    Route,
    Signature,
    Target,
    Version,
)
from modelyard.catalog.model import frozen
from modelyard.metadata import TARGET
from modelyard.names import VersionName

V1, V2 = VersionName("m", 1), VersionName("m", 2)
PLAIN = Route("m")
WHOLE = Route("m", hedge=Hedge(0.02), fallback=(Fallback(Target(2)),))


class Soon:
    """An endpoint that answers in the next turn of the loop, as a lane does at its soonest."""

    lane = "memory"

    async def call(self, method: str, payload: bytes, metadata: object, timeout: float) -> bytes:
        """The payload."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()

        def tell() -> None:
            if not answer.done():  # A loser is cancelled before.
                answer.set_result(payload)

        loop.call_soon(tell)
        return await answer

    async def close(self) -> None:
        """Nothing to close."""


class Direct(Racer):
    """No race: one attempt, whatever the plan says."""

    async def run(self, call: Call, plan: Plan) -> Answer:
        """Asks a replica."""
        target = plan.attempts[0].target
        assert target is not None
        replica = self._replicas.find(target)
        assert replica is not None
        assert call.deadline is not None
        payload = await replica.endpoint.call(
            INFER,
            call.payload,
            (*call.metadata, (TARGET, str(target))),
            call.deadline - self._clock(),
        )
        return Answer(payload, target, Kind.PRIMARY, 1, replica.host)


def _catalog(route: Route) -> Catalog:
    now = datetime.now(UTC)
    versions = {v.number: Version(v, "sha256:0", (), Signature(), now) for v in (V1, V2)}
    model = Model("m", now, frozen(versions), frozen({"live": Label("live", 1, 1, now)}))
    return Catalog(1, frozen({"m": model}), frozen({"m": route}))


async def paired(rounds: int, calls: int) -> dict[str, list[float]]:
    """Microseconds a call of each variant, a figure a round."""
    clock = asyncio.get_running_loop().time
    payload = models.request("m", (1, models.WIDTH))

    def build(kind: type[Racer], route: Route) -> Callable[[Call], Awaitable[Answer]]:
        replicas = Replicas(lambda host: Soon(), clock, random.Random(1))
        hosts = [Host(f"h{v.number}{i}", v, HostState.SERVING, "a") for v in (V1, V2) for i in "ab"]
        replicas.update(hosts)
        catalog = _catalog(route)
        guards = Guards(replicas, clock, random.Random(1))
        meter = Meter()
        racer = kind(replicas, guards, Defaults(lambda: catalog, clock), meter, clock)
        router = Router(lambda: catalog, clock, 30.0, 3)
        return stack(router, racer, meter, AccessLog("failures", clock), clock)

    variants = {
        "no race": build(Direct, PLAIN),
        "the race, a primary and retries": build(Racer, PLAIN),
        "the race, with hedge and fallback": build(Racer, WHOLE),
    }
    spent: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, service in variants.items():
            began = time.process_time()
            for _ in range(calls):
                await service(Call("m", "", payload, clock() + 10.0, "r"))
            spent[name].append((time.process_time() - began) / calls * 1e6)
    return spent


def own_time(seconds: float, front: str) -> float:
    """Microseconds of processor time that a gateway and its front spend on a call."""
    with (
        stage(front=front) as held,
        load_client() as client,
        tempfile.NamedTemporaryFile(prefix="race-cost-") as request,
    ):
        request.write(held.request)
        request.flush()
        client.measure(Order(held.address, request.name, 4, 2.0))
        before = cpu_seconds(held.gateway.pid)
        sample = client.measure(Order(held.address, request.name, 4, seconds))
        spent = cpu_seconds(held.gateway.pid) - before
    return spent / sample.calls * 1e6


def main() -> None:
    """Measures both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=5_000)
    arguments = parser.parse_args()
    facts = machine.describe()
    spent = asyncio.run(paired(arguments.rounds, arguments.calls))
    fronts = ["http2", "grpcio", *(["envoy"] if not envoy_front.missing() else [])]
    own = {front: own_time(15.0, front) for front in fronts}
    medians = {name: statistics.median(found) for name, found in spent.items()}
    base = medians["no race"]
    shares = " | ".join(f"of the gateway's own time, {front} front" for front in own)
    lines = [f"| stack | us a call | more than without | {shares} |"]
    lines.append("| --- | ---: | ---: |" + " ---: |" * len(own))
    for name, us in medians.items():
        parts = " | ".join(f"{(us - base) / time:.1%}" for time in own.values())
        lines.append(f"| {name} | {us:.1f} | {us - base:.1f} | {parts} |")
    times = " and ".join(f"{time:.0f} us with the {front} front" for front, time in own.items())
    text = (
        f"# The cost of the race\n\n{report.machine(facts)}\nMedians of {arguments.rounds} paired"
        f" rounds of {arguments.calls:,} calls. The gateway's own time a call,"
        f" of processors: {times}.\n\n" + "\n".join(lines) + "\n"
    )
    save("race-cost", text, {"machine": facts, "spent": spent, "own": own})


if __name__ == "__main__":
    main()
