"""A million mutated frames (`python -m benchmarks.fuzz`, `make soak-lane`).

Half of them are sent by hostile gateways to a real host, while honest ones ask it beside them; half
by hostile hosts to a gateway's connections. Nothing may crash or hang, no call may get what was
not sent to it, and resident memory must stay. Results go to benchmarks/results/fuzz-lane.{md,json}.
"""

import argparse
import asyncio
import hashlib
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from benchmarks import machine, models, report
from benchmarks.compare import save
from benchmarks.fuzz import gateway_side, host_side
from benchmarks.fuzz.host_side import Found
from benchmarks.fuzz.mutations import LARGEST
from benchmarks.fuzz.scale import Scale
from benchmarks.processes import child, wait_line
from benchmarks.report import table
from modelyard import frames

_TYPES = {
    value: name
    for name, value in vars(frames).items()
    if isinstance(value, int) and name in "HELLO REQUEST ANSWER STATUS CANCEL PING PONG DRAIN CLOSE"
}


def _against_host(count: int, seed: int) -> tuple[Found, list[float]]:
    """Mutated frames at a real host; the weights are the host's."""
    found = Found()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        artifact = models.identity(folder / "identity.onnx")
        digest = hashlib.sha256(artifact.read_bytes()).hexdigest()
        address = f"unix:{folder}/f.sock"
        log = folder / "host.log"
        flags = ("--digest", f"sha256:{digest}", "--listen", f"unix:{folder}/g.sock")
        with child(
            *(sys.executable, "-m", "services.inference.host", "--model", "m", "--version", "1"),
            *("--artifact", artifact, *flags, "--frames", address),
            *("--max-message-bytes", str(LARGEST)),
            log=log,
        ) as host:
            line = wait_line(host, r'^.*"stage": ?"serving".*$', log)[0]
            assert json.loads(line)["frames_address"] == address
            scale = Scale([psutil.Process(host.pid)], found, count)
            asyncio.run(host_side.attack(address, count, seed, found, scale))
            if host.poll() is not None:
                found.faults.append(f"the host ended with {host.returncode}")
        found.faults += [line for line in log.read_text().splitlines() if "Traceback" in line]
    return found, scale.mib


def _against_gateway(count: int, seed: int) -> tuple[Found, list[float]]:
    """Mutated frames at a gateway's connections; the weights are of this process, hosts and all."""
    found = Found()
    scale = Scale([psutil.Process()], found, count)
    asyncio.run(gateway_side.attack(count, seed, found, scale))
    return found, scale.mib


def _told(title: str, found: Found, mib: list[float], seconds: float) -> str:
    sent = ", ".join(f"{_TYPES[t]} {n:,}" for t, n in sorted(found.frames.items()))
    return (
        f"## {title}\n\n{found.mutated:,} mutated frames over {found.connections:,} connections in"
        f" {seconds:,.0f} s; {found.honest:,} calls got their own answers. Faults:"
        f" {found.faults or 'none'}.\n\nThe other side sent: {sent}.\n\nResident memory at each"
        f" tenth, MiB: {', '.join(f'{m:.1f}' for m in mib)}.\n\n"
        + table(("ended by", "connections"), [(w, f"{n:,}") for w, n in found.ends.most_common()])
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs both halves; gives 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    logging.disable(logging.WARNING)  # each broken connection is worth a line to its owner
    facts = machine.describe()
    parts: list[tuple[str, Callable[[int, int], tuple[Found, list[float]]]]] = [
        ("At a host", _against_host),
        ("At a gateway's connections", _against_gateway),
    ]
    text, data, faults = "", {}, 0
    for title, attack in parts:
        began = time.monotonic()
        found, mib = attack(arguments.frames // 2, arguments.seed)
        faults += len(found.faults)
        text += _told(title, found, mib, time.monotonic() - began) + "\n"
        data[title] = {"found": vars(found), "mib": mib}
    save(
        "fuzz-lane",
        f"# Mutated frames at the local lane\n\n{report.machine(facts)}\nSeed {arguments.seed}."
        f"\n\n{text}",
        {"machine": facts, "seed": arguments.seed, **data},
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
