"""Races whose losers are cancelled, a million of them (`python -m benchmarks.soak_races`).

Every call is hedged after a millisecond and answered after some: whoever loses is cancelled down
into its host. Resident memory must stay flat, and nothing may be left: no attempt at the
gateway, no run at a host. Results go to benchmarks/results/soak-races.{md,json}.
"""

import argparse
import asyncio
import sys
import time
import urllib.request
from collections import Counter
from typing import Any

import grpc
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import machine, report
from benchmarks.compare import save
from benchmarks.load import METHOD
from benchmarks.tail.stage import MODEL, Stage, Temper, stage, yaml_of

IN_FLIGHT = 48
BASE = 0.004


def metric(address: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    with urllib.request.urlopen(f"http://{address}/metrics") as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def rss(*processes: psutil.Process) -> float:
    """Of all of them together, in MiB."""
    return round(sum(process.memory_info().rss for process in processes) / 2**20, 1)


async def load(held: Stage, races: int) -> Counter[str]:
    """So many calls; gives how many failed, and of what."""
    left, failed = races, Counter[str]()
    async with grpc.aio.insecure_channel(held.address) as channel:
        infer: Any = channel.unary_unary(METHOD)

        async def caller() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                try:
                    await infer(held.request, timeout=10.0)
                except grpc.aio.AioRpcError as error:
                    failed[f"{error.code().name}: {error.details()}"] += 1

        await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    return failed


def main() -> None:
    """Runs the soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--races", type=int, default=1_000_000)
    parser.add_argument("--look-every", type=int, default=100_000)
    parser.add_argument("--lane", choices=("auto", "grpc", "frames"), default="auto")
    parser.add_argument("--front", choices=("auto", "http2", "envoy", "grpcio"), default="auto")
    arguments = parser.parse_args()
    facts = machine.describe()
    rows: list[dict[str, float]] = []
    with stage(lane=arguments.lane, front=arguments.front) as held:
        held.temper([Temper(BASE)] * 3)
        held.route(yaml_of(hedge={"max_extra_load": 1.0, "delay": "1ms"}))
        gateway, hosts = held.gateway, held.host_processes
        failed, began = asyncio.run(load(held, 5_000)), time.monotonic()
        for done in range(0, arguments.races + 1, arguments.look_every):
            if done:
                failed += asyncio.run(load(held, arguments.look_every))
            rows.append(
                {
                    "races": done,
                    "gateway": rss(gateway, *gateway.children()),
                    "hosts": rss(*hosts),
                    "cancelled": metric(
                        held.metrics, "modelyard_attempts_total", event="cancelled"
                    ),
                    "stopped": sum(
                        metric(m, "modelyard_host_stopped_runs_total") for m in held.host_metrics
                    ),
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
        seconds = time.monotonic() - began
        time.sleep(1.0)
        left = {
            "attempts at the gateway": metric(held.metrics, "modelyard_in_flight"),
            "runs at the hosts": sum(
                metric(m, "modelyard_host_pending_runs") for m in held.host_metrics
            ),
        }
        asked = time.monotonic()
        gateway.terminate()
        gateway.wait(30)
        ended = time.monotonic() - asked
    lines = ["| races | gateway, MiB | hosts, MiB | losers cancelled | runs stopped at hosts |"]
    lines.append("| ---: | ---: | ---: | ---: | ---: |")
    lines += [
        f"| {r['races']:,} | {r['gateway']} | {r['hosts']} | {r['cancelled']:,.0f}"
        f" | {r['stopped']:,.0f} |"
        for r in rows
    ]
    text = (
        f"# A soak of races\n\n{report.machine(facts)}\n{arguments.races:,} races on `{MODEL}`,"
        f" front {arguments.front}, lane {arguments.lane}, {IN_FLIGHT} in flight, in"
        f" {seconds:,.0f} s; {failed.total()} calls failed. Left at the end: "
        + ", ".join(f"{count:.0f} {what}" for what, count in left.items())
        + f". Told to end, the gateway did so in {ended:.1f} s.\n\n"
        + "".join(f"- {count:,} of {what}\n" for what, count in failed.most_common(5))
        + ("\n" if failed else "")
        + "\n".join(lines)
        + "\n"
    )
    save("soak-races", text, {"machine": facts, "rows": rows, "failed": failed, "left": left})


if __name__ == "__main__":
    main()
