"""Tails with and without hedging, side by side (`python -m benchmarks.tail`).

Three real hosts straggle in five ways; each contender sends the same Poisson traffic to the same
hosts, one after the other, in one run. Results go to benchmarks/results/tail.{md,json}.
"""

import argparse
import asyncio
import sys
from dataclasses import dataclass

from benchmarks import machine, report
from benchmarks.compare import save
from benchmarks.tail.contenders import Result, fetched, measure
from benchmarks.tail.stage import Stage, Temper, stage, yaml_of

# A run's usual time, and with the way there and back what a call takes, in seconds.
BASE, MEDIAN = 0.003, 0.005


@dataclass(frozen=True, slots=True)
class Scene:
    """One way to straggle."""

    key: str
    title: str
    tempers: tuple[Temper, Temper, Temper]
    extra_load: float


def _all(temper: Temper) -> tuple[Temper, Temper, Temper]:
    return temper, temper, temper


USUAL = Temper(BASE)
SCENES = (
    Scene(
        "a",
        "1 % of calls stall 50 to 100 times the median (The Tail at Scale); 2 % allowed",
        _all(Temper(BASE, (0.01, 50 * MEDIAN, 100 * MEDIAN))),
        0.02,
    ),
    Scene(
        "b",
        "5 % of calls take 10 times the median; 10 % allowed",
        _all(Temper(BASE, (0.05, 10 * MEDIAN, 10 * MEDIAN))),
        0.10,
    ),
    Scene("c", "all hosts are 5 times slower; 2 % allowed", _all(Temper(BASE * 5)), 0.02),
    Scene(
        "d",
        "one host of three fails every call at once; 2 % allowed",
        (Temper(BASE, fails=1.0), USUAL, USUAL),
        0.02,
    ),
    Scene(
        "e",
        "one host of three is 10 times slower; 2 % allowed",
        (Temper(BASE * 10), USUAL, USUAL),
        0.02,
    ),
)
CONTENDERS = ("bare channel", "hedge-python", "gateway", "gateway, hedged")


async def play(held: Stage, scene: Scene, rate: float, calls: int) -> list[Result]:
    """Measures every contender in one scene."""
    results = []
    for name in CONTENDERS:
        if name == "hedge-python" and not fetched():
            continue
        held.temper(scene.tempers)
        hedge = {"max_extra_load": scene.extra_load} if name == "gateway, hedged" else None
        held.route(yaml_of(hedge=hedge) if hedge else yaml_of(default={"label": "live"}))
        if scene.key == "c" and name != "bare channel":
            # It slows down under way: what was learnt before is wrong then.
            held.temper(_all(USUAL))
            await measure(name, held, scene.extra_load, rate, int(rate * 5))
            held.temper(scene.tempers)
        results.append(await measure(name, held, scene.extra_load, rate, calls))
        shown = results[-1]
        print(
            f"{scene.key} {name}: p99.9 {shown.quantile(0.999):.1f} ms, "
            f"extra {shown.extra:.2%}, errors {shown.errors}",
            file=sys.stderr,
            flush=True,
        )
    return results


def table(scene: Scene, results: list[Result]) -> str:
    """One scene, for readers."""
    lines = [
        f"### ({scene.key}) {scene.title}\n",
        "| | p50 | p99 | p99.9 | p99.9 against bare | extra load | errors |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    bare = results[0].quantile(0.999)
    for result in results:
        p50, p99, p999 = (result.quantile(q) for q in (0.5, 0.99, 0.999))
        lines.append(
            f"| {result.contender} | {p50:.1f} ms | {p99:.1f} ms | {p999:.1f} ms"
            f" | {p999 / bare:.3f} | {result.extra:.2%} | {result.errors} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Plays the scenes that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", nargs="+", default=[scene.key for scene in SCENES])
    parser.add_argument("--rate", type=float, default=200.0, help="calls a second")
    parser.add_argument("--calls", type=int, default=10_000, help="of each contender in a scene")
    parser.add_argument("--lane", choices=("auto", "grpc", "frames"), default="auto")
    parser.add_argument("--front", choices=("auto", "http2", "envoy", "grpcio"), default="auto")
    arguments = parser.parse_args()
    facts = machine.describe()
    tables, data = [], []
    with stage(lane=arguments.lane, front=arguments.front) as held:
        for scene in SCENES:
            if scene.key in arguments.scenes:
                results = asyncio.run(play(held, scene, arguments.rate, arguments.calls))
                tables.append(table(scene, results))
                data.append(
                    {
                        "scene": scene.key,
                        "title": scene.title,
                        "results": [
                            {
                                "contender": r.contender,
                                "ms": {str(q): r.quantile(q) for q in (0.5, 0.9, 0.99, 0.999)},
                                "errors": r.errors,
                                "extra": r.extra,
                            }
                            for r in results
                        ],
                    }
                )
    text = (
        f"# Tails\n\n{report.machine(facts)}\n{arguments.calls:,} calls of each contender in each"
        f" scene, {arguments.rate:g} a second at Poisson times, to three real hosts that take"
        f" {BASE * 1e3:g} ms a run. `hedge-python` is given the same extra load.\nThe gateway's"
        f" lane to hosts: {arguments.lane} (auto is frames, on one machine); its front:"
        f" {arguments.front} (auto is HTTP/2 of its own).\n\n" + "\n".join(tables)
    )
    save("tail", text, {"machine": facts, "arguments": vars(arguments), "scenes": data})


if __name__ == "__main__":
    main()
