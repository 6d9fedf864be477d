"""Where a call's time goes in gateway and host (`python -m benchmarks.where`).

By thread, the processor time and the waits of each call, at several calls in flight; and a flame
graph of the time in which Python ran, where py-spy is installed (`pip install py-spy`). Results
go to benchmarks/results/where.{md,json,svg}.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine, models, report
from benchmarks.compare import RESULTS, save
from benchmarks.load import Order, Sample
from benchmarks.processes import LoadClient, load_client, yard

IN_FLIGHT = (1, 16, 64)
_FLAME_SECONDS = 10
# Threads that take less of a call are left out, in microseconds.
_LEAST = 5.0


@dataclass(frozen=True, slots=True)
class Spent:
    """What a thread has taken since it began: nanoseconds, and how often it waited."""

    name: str
    ns: int
    waits: int


def threads(pid: int) -> dict[str, Spent]:
    """What each thread of a process has taken (proc_pid_schedstat, proc_pid_status)."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = dict(
            line.split(":\t", 1)
            for line in (task / "status").read_text().splitlines()
            if ":\t" in line
        )
        ns = int((task / "schedstat").read_text().split()[0])
        found[task.name] = Spent(lines["Name"], ns, int(lines["voluntary_ctxt_switches"]))
    return found


def by_thread(
    client: LoadClient, order: Order, pids: Mapping[str, int]
) -> tuple[Sample, list[tuple[str, str, float, float]]]:
    """A measurement; and of each thread its process, name, and microseconds and waits a call."""
    before = {who: threads(pid) for who, pid in pids.items()}
    sample = client.measure(order)
    rows = []
    for who, pid in pids.items():
        for thread, now in threads(pid).items():
            then = before[who].get(thread, Spent(now.name, 0, 0))
            us = (now.ns - then.ns) / 1e3 / sample.calls
            if us >= _LEAST:
                rows.append((who, now.name, us, (now.waits - then.waits) / sample.calls))
    return sample, sorted(rows, key=lambda row: (list(pids).index(row[0]), -row[2]))


@contextmanager
def flame(pid: int, to: Path) -> Iterator[bool]:
    """Draws what runs meanwhile, while it holds the interpreter; tells whether it can."""
    program = shutil.which("py-spy")
    if program is None:
        print("no py-spy here: no flame graph", file=sys.stderr, flush=True)
        yield False
        return
    flags = ("--gil", "--rate", "1000", "--duration", str(_FLAME_SECONDS), "--output", str(to))
    spy = subprocess.Popen([program, "record", "--pid", str(pid), *flags])
    try:
        yield True
    finally:
        spy.wait()
        # Its title is the command, with the paths of this machine.
        drawn = re.sub(r'(id="title"[^>]*>)[^<]*', r"\1Python in the gateway", to.read_text())
        to.write_text(drawn)


def main() -> None:
    """Measures both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    given = parser.parse_args()
    facts = machine.describe()
    head = ("process", "thread", "us of a processor a call", "waits a call")
    parts, data = [], []
    with tempfile.TemporaryDirectory() as held, load_client() as client:
        folder = Path(held)
        request = folder / "request"
        request.write_bytes(models.request("mlp", (1, models.WIDTH)))
        with yard(folder) as served:
            served.client.register("mlp", models.mlp(folder / "mlp.onnx"), label="live", wait=True)
            (gateway,) = served.processes("-m gateway --")
            (host,) = served.client.hosts("mlp")
            pids = {"gateway": gateway.pid, "host": host.pid, "client": client.pid}
            for in_flight in IN_FLIGHT:
                order = Order(served.address, str(request), in_flight, given.seconds)
                client.measure(order)
                sample, rows = by_thread(client, order, pids)
                shown = [(who, name, f"{us:.0f}", f"{waits:.2f}") for who, name, us, waits in rows]
                told = f"p50 {sample.p50:,.0f} us, {sample.throughput:,.0f} calls/s"
                parts.append(f"## {in_flight} in flight: {told}\n\n{report.table(head, shown)}")
                data.append({"in_flight": in_flight, "sample": asdict(sample), "threads": rows})
            order = Order(served.address, str(request), IN_FLIGHT[-1], _FLAME_SECONDS + 1.0)
            with flame(gateway.pid, RESULTS / "where.svg") as drawn:
                client.measure(order)
    picture = (
        "\n[Flame graph](where.svg) of Python in the gateway, 64 in flight.\n" if drawn else ""
    )
    text = (
        f"# Where a call's time goes\n\n{report.machine(facts)}\nThe gateway as it comes, frames"
        f" to its host, a grpc.aio client on one core; a 1x64 MLP.\n{picture}\n" + "\n".join(parts)
    )
    save("where", text, {"machine": facts, "rows": data})


if __name__ == "__main__":
    main()
