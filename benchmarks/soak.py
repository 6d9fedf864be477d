"""Memory over calls, cancelled calls and version replacements (`make soak`).

    python -m benchmarks.soak                                  # a whole yard, the locked grpcio
    python -m benchmarks.soak --grpcio 1.80.1 1.82.3 1.85.1    # gRPC alone, each in its own venv

Results go to benchmarks/results/ as Markdown and JSON; docs/adr has what was decided from them.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio

from benchmarks import machine, models
from benchmarks.compare import save
from benchmarks.load import METHOD
from benchmarks.processes import ROOT, Yard, yard
from benchmarks.report import machine as about_machine
from benchmarks.report import table
from modelyard.calls import answer

IN_FLIGHT = 16
_QUARTERS = 4
Weights = dict[str, list[float]]


def environment(version: str) -> Path:
    """The Python of a bare environment with this grpcio; made when it is not there."""
    home = ROOT / ".tools" / f"grpcio-{version}"
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pip = (str(python), "-m", "pip", "install", "-q", f"grpcio=={version}")
    subprocess.run(pip, check=True)
    return python


def grpc_alone(version: str, scale: float) -> dict[str, Any]:
    """The soak of one grpcio version."""
    done = subprocess.run(
        [str(environment(version)), "-m", "benchmarks.soak_grpc", "--scale", str(scale)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def grpc_table(results: list[dict[str, Any]]) -> str:
    """Bytes a call that stay, by phase, process and version; and the losers still at work."""
    rows = []
    for number, phase in enumerate(results[0]["phases"]):
        for who in ("proxy", "client", "server"):
            cells = [f"{r['phases'][number]['bytes_per_call'][who]:,.0f}" for r in results]
            if who == "server":
                cells = [
                    f"{cell} ({r['phases'][number]['pending']:,} at work)"
                    for cell, r in zip(cells, results, strict=True)
                ]
            rows.append((phase["name"], f"{phase['calls']:,}", who, *cells))
    versions = [f"grpcio {r['grpcio']}" for r in results]
    return table(("phase", "calls", "process", *versions), rows)


async def _many(one: Callable[[], Awaitable[None]], count: int) -> None:
    async def caller() -> None:
        for _ in range(count // IN_FLIGHT):
            await one()

    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))


def _weigh(running: Yard, weights: Weights) -> None:
    for name, words in (
        ("gateway", ("-m gateway --",)),
        ("recorder", ("gateway.recorder",)),
        ("Envoy, the gateway in it", ("--config-path", "modelyard-front-")),
        ("registry", ("-m", "services.registry")),
        ("supervisor", ("-m", "services.inference", "--registry")),
        ("hosts", ("services.inference.host",)),
    ):
        weights.setdefault(name, []).append(running.rss_mib(*words))
    # A version that was replaced is kept for a while: so there are now more hosts and now fewer.
    held = [one.memory_info().rss / 2**20 for one in running.processes("services.inference.host")]
    weights.setdefault("hosts, each", []).append(sum(held) / max(len(held), 1))


async def _quarters(running: Yard, one: Callable[[], Awaitable[None]], count: int) -> Weights:
    weights: Weights = {}
    for _ in range(_QUARTERS):
        await _many(one, count // _QUARTERS)
        await asyncio.sleep(1.0)
        _weigh(running, weights)
    return weights


async def calls(running: Yard, scale: float) -> dict[str, Weights]:
    """100,000 calls, 10,000 cancelled ones, and calls again."""
    fast = models.request("mlp", (1, models.WIDTH))
    slow = models.request("slow", (1, models.WIDTH))
    async with grpc.aio.insecure_channel(running.address) as channel:
        infer: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)

        async def call() -> None:
            await answer(infer(fast, timeout=30))

        async def cancel() -> None:
            waiting = asyncio.create_task(answer(infer(slow, timeout=30)))
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.wait([waiting])
            if not waiting.cancelled():
                waiting.result()

        return {
            "warm": await _quarters(running, call, int(10_000 * scale)),
            "calls": await _quarters(running, call, int(100_000 * scale)),
            "cancelled": await _quarters(running, cancel, int(10_000 * scale)),
            "calls again": await _quarters(running, call, int(10_000 * scale)),
        }


def replacements(running: Yard, folder: Path, count: int) -> Weights:
    """Registers new versions of one model and moves `live` to each; weighs after each."""
    weights: Weights = {}
    for number in range(1, count + 1):
        file = models.mlp(folder / "mlp.onnx", seed=number)
        running.client.register("mlp", file, label="live", wait=True)
        _weigh(running, weights)
    return weights


def whole_yard(scale: float) -> dict[str, Weights]:
    """The soak of a whole yard."""
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        with yard(folder) as running:
            for model, file in (
                ("mlp", models.mlp(folder / "mlp.onnx")),
                ("slow", models.slow(folder / "slow.onnx")),
            ):
                running.client.register(model, file, label="live", wait=True)
            phases = asyncio.run(calls(running, scale))
            phases["replacements"] = replacements(running, folder, max(2, int(50 * scale)))
            return phases


def yard_table(phases: dict[str, Weights]) -> str:
    """RSS in MiB: at the first weighing of a phase, at the last, and the most."""
    return table(
        ("phase", "process", "first MiB", "last MiB", "most MiB"),
        [
            (phase, who, f"{w[0]:.1f}", f"{w[-1]:.1f}", f"{max(w):.1f}")
            for phase, weights in phases.items()
            for who, w in weights.items()
        ],
    )


def main() -> None:
    """Runs the soak that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grpcio", nargs="+", metavar="VERSION", help="gRPC alone, by version")
    parser.add_argument("--scale", type=float, default=1.0, help="1.0 is 100,000 calls")
    arguments = parser.parse_args()
    facts = machine.describe()
    if arguments.grpcio:
        results = [grpc_alone(version, arguments.scale) for version in arguments.grpcio]
        text = "Bytes a call that stay resident, from a phase's first quarter to its last.\n\n"
        save(
            "soak-grpcio",
            f"# gRPC alone\n\n{about_machine(facts)}\n{text}{grpc_table(results)}",
            {"machine": facts, "versions": results},
        )
    else:
        phases = whole_yard(arguments.scale)
        save(
            "soak",
            f"# A whole yard\n\n{about_machine(facts)}\n{yard_table(phases)}",
            {"machine": facts, "phases": phases},
        )


if __name__ == "__main__":
    main()
