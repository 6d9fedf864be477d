"""Calls a second by the number of gateway processes behind one port.

One yard, whose hosts every gateway asks; beside its own gateway one at a time, with each number of
workers. Several clients load it, each a process with one connection. The table names the cores that
gateway, hosts and clients used, so that a reader sees what was the bound.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from benchmarks import machine, models, report
from benchmarks.compare import save
from benchmarks.load import Order, Sample
from benchmarks.processes import (
    DidNotStart,
    LoadClient,
    Yard,
    child,
    free_port,
    load_client,
    wait_port,
    yard,
)
from modelyard.registry.v1.host_pb2 import Host

MODEL = "mlp"
_WARM = 1.0
_PATIENCE = 120.0
_PARTIES = ("gateway", "hosts", "clients")


@dataclass
class Row:
    """What one number of workers gave, by round.

    Attributes:
        workers: The number.
        calls: A second.
        p50: In milliseconds; the median of the clients'.
        p99: In milliseconds; the worst of the clients'.
        cores: That gateway, hosts and clients used.
        errors: Calls that failed.
    """

    workers: int
    calls: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cores: list[tuple[float, ...]] = field(default_factory=list)
    errors: int = 0

    def take(self, samples: Sequence[Sample], cores: tuple[float, ...]) -> None:
        """Takes a round in."""
        self.calls.append(round(sum(s.throughput for s in samples), 1))
        self.p50.append(round(statistics.median(s.p50 for s in samples) / 1e3, 3))
        self.p99.append(round(max(s.p99 for s in samples) / 1e3, 3))
        self.cores.append(tuple(round(c, 2) for c in cores))
        self.errors += sum(s.errors for s in samples)


@contextmanager
def gateway(
    running: Yard, folder: Path, workers: int, front: str
) -> Iterator[tuple[psutil.Process, str]]:
    """A gateway on the yard's hosts; gives its process and its address."""
    port, log = free_port(), folder / "gateway.log"
    command = (sys.executable, "-m", "gateway", "--front", front, "--workers", str(workers))
    listen = ("--listen", f"127.0.0.1:{port}", "--metrics-listen", "")
    registry = ("--registry", f"unix:{running.layout.registry_socket}")
    with child(*command, *listen, *registry, log=log) as process:
        wait_port(process, port, log)
        yield psutil.Process(process.pid), f"127.0.0.1:{port}"


def serving(running: Yard, count: int) -> list[psutil.Process]:
    """The processes of the hosts, once all serve."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        known = [h for h in running.client.hosts(MODEL) if h.state == Host.STATE_SERVING]
        if len(known) == count:
            return [psutil.Process(host.pid) for host in known]
        time.sleep(0.1)
    raise DidNotStart(f"not {count} hosts serve after {_PATIENCE:g} s")


def spent(processes: Sequence[psutil.Process]) -> float:
    """Processor time, in seconds, of processes and of all that they started."""
    seconds = 0.0
    for process in processes:
        for one in (process, *process.children(recursive=True)):
            times = one.cpu_times()
            seconds += times.user + times.system
    return seconds


def measure(
    clients: Sequence[LoadClient], order: Order, parties: Sequence[Sequence[psutil.Process]]
) -> tuple[list[Sample], tuple[float, ...]]:
    """One round: the clients' samples, and the cores that each party used."""
    before, began = [spent(party) for party in parties], time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as pool:
        samples = list(pool.map(lambda client: client.measure(order), clients))
    elapsed = time.perf_counter() - began
    after = [spent(party) for party in parties]
    return samples, tuple((b - a) / elapsed for a, b in zip(before, after, strict=True))


def table(rows: Sequence[Row]) -> str:
    """The rows, beside the first of them."""
    shown = []
    for row in rows:
        ratio = statistics.median(a / b for a, b in zip(row.calls, rows[0].calls, strict=True))
        cores = [f"{statistics.median(c):.1f}" for c in zip(*row.cores, strict=True)]
        shown.append(
            [
                str(row.workers),
                f"{statistics.median(row.calls):,.0f}",
                f"{ratio:.2f}",
                f"{statistics.median(row.p50):.2f}",
                f"{statistics.median(row.p99):.2f}",
                *cores,
                str(row.errors),
            ]
        )
    parties = [f"cores: {party}" for party in _PARTIES]
    head = ["workers", "calls/s", f"beside {rows[0].workers}", "p50, ms", "p99, ms"]
    return report.table([*head, *parties, "failed"], shown)


def main() -> None:
    """Measures."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--in-flight", type=int, default=64, help="for each worker")
    parser.add_argument("--clients", type=int, default=max(2, cores // 4))
    parser.add_argument("--hosts", type=int, default=max(1, cores // 4))
    parser.add_argument("--front", default="auto", choices=("auto", "http2", "envoy", "grpcio"))
    asked = parser.parse_args()
    facts = machine.describe()
    rows = [Row(workers) for workers in asked.workers]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="workers-")))
        request = folder / "request.bin"
        request.write_bytes(models.request(MODEL, (1, models.WIDTH)))
        flags = ("--front", "grpcio", "--replicas", str(asked.hosts))
        running = stack.enter_context(yard(folder, *flags))
        running.client.register(MODEL, models.mlp(folder / "mlp.onnx"), label="live", wait=True)
        hosts = serving(running, asked.hosts)
        clients = [
            stack.enter_context(load_client("benchmarks.frames_load")) for _ in range(asked.clients)
        ]
        for _ in range(asked.rounds):
            for row in rows:
                with gateway(running, folder, row.workers, asked.front) as (process, address):
                    parties = ([process], hosts, [psutil.Process(c.pid) for c in clients])
                    each = max(1, asked.in_flight * row.workers // asked.clients)
                    order = Order(address, str(request), each, _WARM)
                    measure(clients, order, parties)
                    order = Order(address, str(request), each, asked.seconds)
                    row.take(*measure(clients, order, parties))
                    print(row.workers, row.calls[-1], row.cores[-1], file=sys.stderr, flush=True)
    rows = [row for row in rows if row.calls]
    text = (
        f"# Gateway processes behind one port\n\n{report.machine(facts)}\n"
        f"A 1x64 FP32 MLP at {asked.hosts} host(s), {asked.in_flight} calls in flight a worker from"
        f" {asked.clients} clients, front {asked.front}; medians of {asked.rounds} rounds of"
        f" {asked.seconds:g} s.\n\n{table(rows)}"
    )
    data = {"machine": facts, "asked": vars(asked), "rows": [asdict(row) for row in rows]}
    save("workers", text, data)


if __name__ == "__main__":
    main()
