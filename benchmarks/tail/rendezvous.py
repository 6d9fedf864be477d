"""Does a rendezvous do what its curves foretell? (`python -m benchmarks.tail.rendezvous`)

A better version straggles, a lesser one is quick. Their curves are seen under one schedule; from
them the gateway proposes another one for a deadline; and calls under that one are counted by who
answered. Results go to benchmarks/results/rendezvous.{md,json}.
"""

import argparse
import asyncio
from collections import Counter
from typing import Any

import grpc
from scipy.stats import binomtest

from benchmarks import machine, report
from benchmarks.compare import save
from benchmarks.load import METHOD
from benchmarks.tail.contenders import open_loop
from benchmarks.tail.stage import MODEL, Stage, Temper, stage, yaml_of
from modelyard.metadata import SERVED_BY

BETTER, LESSER = 2, 1
SLA, MISS = 0.15, 0.001
TEMPERS = (
    *(Temper(0.003),) * 2,
    *(Temper(0.015, (0.25, 0.05, 0.4)),) * 2,
)


async def serve(held: Stage, rate: float, calls: int, deadline: float) -> tuple[Counter[str], int]:
    """Who answered the calls, and how many nobody did."""
    who: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(held.address) as channel:
        infer: Any = channel.unary_unary(METHOD)

        async def send() -> bytes:
            call = infer(held.request, timeout=deadline)
            answer: bytes = await call
            for key, value in await call.trailing_metadata():
                if key == SERVED_BY:
                    who[value] += 1
            return answer

        _, errors = await open_loop(send, rate, calls)
    return who, errors


def main() -> None:
    """Sees, proposes, and counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--calls", type=int, default=6_000)
    arguments = parser.parse_args()
    facts = machine.describe()
    with stage(versions=2, hosts=2) as held:
        held.temper(TEMPERS)
        late = [{"version": BETTER}, {"version": LESSER, "accept_from": "900ms"}]
        held.route(yaml_of(rendezvous=late, deadline="1s"))
        asyncio.run(serve(held, arguments.rate, arguments.calls, 1.0))
        proposed = held.client.suggest(MODEL, deadline=SLA, miss=MISS, versions=[BETTER, LESSER])
        route = held.client.route(MODEL)
        del route.rendezvous[:]
        route.rendezvous.extend(proposed.rendezvous)
        route.deadline.FromMilliseconds(int(SLA * 1e3))
        held.client.replace_route(MODEL, route)
        curves = {c.version: c for c in held.client.curves(MODEL).curves}
        who, errors = asyncio.run(serve(held, arguments.rate, arguments.calls, SLA))
    name = f"models/{MODEL}/versions/{BETTER}"
    moment = proposed.rendezvous[1].accept_from.ToTimedelta().total_seconds()
    band = [p for p in curves[name].points if p.after.ToTimedelta().total_seconds() <= moment][-1]
    observed = who[name] / arguments.calls
    interval = binomtest(who[name], arguments.calls).proportion_ci(0.95)
    within = interval.low <= band.upper and band.lower <= interval.high
    text = (
        f"# A rendezvous and its forecast\n\n{report.machine(facts)}\n"
        f"Version {BETTER} takes 15 ms, and in a quarter of the runs 50 to 400 ms; version {LESSER}"
        f" takes 3 ms. {arguments.calls:,} calls showed the curves, {arguments.calls:,} more ran by"
        f" the schedule proposed for {SLA * 1e3:g} ms and a miss of {MISS:.1%}: version {LESSER}"
        f" counts from {moment * 1e3:.1f} ms on.\n\n"
        "| | forecast | 95 % interval | seen | 95 % interval |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        f"| answered by the better version | {proposed.shares[0]:.2%}"
        f" | {band.lower:.2%} to {band.upper:.2%} | {observed:.2%}"
        f" | {interval.low:.2%} to {interval.high:.2%} |\n"
        f"| answered by none in time | {proposed.miss:.3%} | |"
        f" {errors / arguments.calls:.3%} | |\n\n"
        f"The intervals {'overlap' if within else 'do NOT overlap'}.\n"
    )
    data = {"shares": list(proposed.shares), "who": dict(who), "errors": errors, "within": within}
    save("rendezvous", text, {"machine": facts, **data})


if __name__ == "__main__":
    main()
