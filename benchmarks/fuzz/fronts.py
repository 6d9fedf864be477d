"""Malformed HTTP/2, gRPC and messages at the fronts (`python -m benchmarks.fuzz.fronts`).

Hostile callers send to a whole yard's gateway what breaks HTTP/2's rules, gRPC's and the
protocol's, and floods, while honest ones call beside them. The gateway, and the Envoy around it,
must live on; every honest call must be answered rightly within its deadline; nobody may see what
is another's; nothing may be left: no call, no file descriptor, no defect in a log, no memory.
Results go to benchmarks/results/fuzz-front-FRONT.{md,json}.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, models, report
from benchmarks.compare import save
from benchmarks.fuzz import front_side, requests
from benchmarks.fuzz.front_side import Found
from benchmarks.fuzz.scale import Scale
from benchmarks.processes import Yard, yard
from benchmarks.report import table

FRONTS = {
    "http2": "HTTP/2 of our own",
    "envoy": "Envoy with the gateway inside",
    "grpcio": "grpc.aio",
}
LANES = {"auto": "frames to hosts", "grpc": "gRPC to hosts"}
# After the last connection, what it left has so long to be gone, in seconds.
_AFTER = 60.0
# Of the yard's own connections that come and go: to the registry, to hosts.
_SOME = 8


class Watch:
    """The processes of a yard under fire: whether they live, weigh and hold what they did.

    Args:
        running: The yard.
        found: What is found, into which their faults go.
        count: Of the cases of the campaign.
    """

    def __init__(self, running: Yard, found: Found, count: int) -> None:
        envoy = running.processes("--config-path", "modelyard-front-")
        self._gateway = [*running.processes("-m gateway "), *envoy]
        hosts = running.processes("services.inference.host")
        self._yard, self._found = running, found
        self._all = {process.pid: process for process in (*self._gateway, *hosts)}
        self._files = self._open_files()
        self.gateway = Scale(self._gateway, found, count)
        self.hosts = Scale(hosts, found, count)
        self._looked = 0.0
        self.settled = 0.0

    def __call__(self) -> None:
        """Looks, where it is time."""
        now = time.monotonic()
        if now - self._looked < 0.5:
            return
        self._looked = now
        gone = [p.pid for p in self._all.values() if not p.is_running()]
        if gone:
            self._found.faults.append(f"processes ended: {gone}")
            return
        self.gateway()
        self.hosts()

    def afterwards(self) -> None:
        """Waits until nothing is left, and reads the logs."""
        began = time.monotonic()
        while True:
            left = {
                "attempts": sum(r.pending for r in self._yard.client.status().replicas),
                "files": max(0, self._open_files() - self._files - _SOME),
            }
            self.settled = time.monotonic() - began
            if not any(left.values()) or self.settled > _AFTER:
                break
            print(left, file=sys.stderr, flush=True)
            time.sleep(0.5)
        self._found.faults += [f"{count} {what} left" for what, count in left.items() if count]
        for log in (
            *self._yard.layout.logs.glob("*.log"),
            *self._yard.layout.inference.rglob("*.log"),
        ):
            said = front_side.complaints(log.read_text(errors="replace"))
            self._found.faults += [f"{log.name}: {line[:500]}" for line in said[:5]]

    def _open_files(self) -> int:
        return sum(process.num_fds() for process in self._gateway)


def campaign(front: str, lane: str, count: int, seed: int) -> tuple[Found, Watch]:
    """So many cases at one front, with one lane behind it."""
    found = Found()
    told = {"MAX_MESSAGE_BYTES": str(requests.LARGEST), "LANE": lane}
    environment = {f"MODELYARD_GATEWAY_{name}": value for name, value in told.items()}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        with yard(folder, "--front", front, environment=environment) as running:
            artifact = models.identity(folder / "identity.onnx")
            running.client.register(requests.MODEL, artifact, label="live", wait=True)
            watch = Watch(running, found, count)
            grpcio = front == "grpcio"
            asyncio.run(
                front_side.attack(running.address, count, seed, found, watch, text_paths=grpcio)
            )
            watch.afterwards()
    return found, watch


def _told(title: str, found: Found, watch: Watch, seconds: float) -> str:
    def counted(what: str, counts: Any) -> str:
        return table((what, "count"), [(name, f"{n:,}") for name, n in counts.most_common()])

    return (
        f"## {title}\n\n{found.mutated:,} cases over {found.connections:,} connections in"
        f" {seconds:,.0f} s; beside them {found.honest:,} honest calls, each answered with its own."
        f" Faults: {found.faults or 'none'}. {watch.settled:.0f} s after the last no call and no"
        f" connection of theirs was left.\n\nResident memory at each tenth, MiB: gateway"
        f" {', '.join(f'{m:.1f}' for m in watch.gateway.mib)}; host"
        f" {', '.join(f'{m:.1f}' for m in watch.hosts.mib)}.\n\n"
        + counted("case", found.cases)
        + "\n"
        + counted("hostile connections ended by", found.ends)
        + "\n"
        + counted("hostile streams ended by", found.answers)
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a campaign at each front; gives 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000, help="over all campaigns")
    parser.add_argument("--fronts", nargs="+", choices=tuple(FRONTS), default=tuple(FRONTS))
    parser.add_argument("--lanes", nargs="+", choices=tuple(LANES), default=tuple(LANES))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    logging.disable(logging.WARNING)  # each broken connection is worth a line to asyncio
    facts = machine.describe()
    faults = 0
    count = arguments.cases // (len(arguments.fronts) * len(arguments.lanes))
    for front in arguments.fronts:
        text, data = "", {}
        for lane in arguments.lanes:
            title = f"{FRONTS[front]}, {LANES[lane]}"
            print(title, file=sys.stderr, flush=True)
            began = time.monotonic()
            found, watch = campaign(front, lane, count, arguments.seed)
            faults += len(found.faults)
            text += _told(title, found, watch, time.monotonic() - began) + "\n"
            data[title] = {
                "found": vars(found),
                "gateway MiB": watch.gateway.mib,
                "hosts MiB": watch.hosts.mib,
            }
        head = f"# Malformed calls\n\n{report.machine(facts)}\nSeed {arguments.seed}.\n\n"
        save(
            f"fuzz-front-{front}",
            head + text,
            {"machine": facts, "seed": arguments.seed, **data},
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
