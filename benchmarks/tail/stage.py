"""The stage of the tail benchmark: Redis, a registry, a gateway, and hosts that straggle."""

import hashlib
import json
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import models
from benchmarks.processes import child, free_port, wait_line, wait_port
from modelyard import redis_server
from modelyard.cli.route_yaml import parse
from modelyard.client import Client
from modelyard.registry.v1 import host_pb2, host_service_pb2, host_service_pb2_grpc

MODEL = "tail"
HOSTS = 3
# Runs of a host at a time.
WORKERS = 64


@dataclass(frozen=True, slots=True)
class Temper:
    """What a host is told; see `benchmarks.tail.host`. Times in seconds."""

    base: float = 0.002
    stall: tuple[float, float, float] = (0.0, 0.0, 0.0)
    fails: float = 0.0


@dataclass
class Stage:
    """A gateway at `address`, and hosts that may be called past it.

    Attributes:
        address: Of the gateway.
        hosts: The addresses of the hosts.
        client: For routes and traffic.
        request: A serialized call.
        metrics: Where Prometheus reads the gateway.
        gateway: Its process; with the front inside Envoy, the one that started Envoy.
        host_processes: Those of the hosts.
        host_metrics: Where Prometheus reads the hosts.
    """

    address: str
    hosts: tuple[str, ...]
    client: Client
    request: bytes
    metrics: str
    gateway: psutil.Process
    host_processes: tuple[psutil.Process, ...]
    host_metrics: tuple[str, ...]
    _tempers: tuple[Path, ...] = field(default=(), repr=False)

    def temper(self, tempers: Sequence[Temper]) -> None:
        """Tells each host how it is."""
        for file, temper in zip(self._tempers, tempers, strict=True):
            _write(file, temper)

    def extra(self) -> int:
        """The hedges and retries that the gateway has made."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics") as page:
            families = text_string_to_metric_families(page.read().decode())
            return int(
                sum(
                    sample.value
                    for family in families
                    for sample in family.samples
                    if sample.name == "modelyard_attempts_total"
                    and sample.labels["event"] == "started"
                    and sample.labels["kind"] in ("hedge", "retry")
                )
            )

    def route(self, text: str) -> None:
        """Replaces the model's route."""
        self.client.replace_route(MODEL, parse(text))


def _write(file: Path, temper: Temper) -> None:
    text = json.dumps({"base": temper.base, "stall": temper.stall, "fails": temper.fails})
    beside = file.with_suffix(".new")
    beside.write_text(text)
    beside.rename(file)


@contextmanager
def stage(
    versions: int = 1, hosts: int = HOSTS, lane: str = "auto", front: str = "auto"
) -> Iterator[Stage]:
    """Everything, while the block runs; `hosts` of each version, behind this front and lane."""
    with ExitStack() as ends:
        # Sockets need a short path.
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="tail-")))
        redis = folder / "redis"
        redis.mkdir()
        command = redis_server.command(redis, folder / "r.sock")
        ends.enter_context(child(*command, log=folder / "redis.log"))
        while not redis_server.answers(folder / "r.sock"):
            threading.Event().wait(0.05)
        python = (sys.executable, "-m")
        registry = f"unix:{folder}/g.sock"
        flags = ("--listen", registry, "--redis", f"unix://{folder}/r.sock")
        ends.enter_context(
            child(
                *python,
                "services.registry",
                *flags,
                "--artifacts",
                folder / "store",
                log=folder / "registry.log",
            )
        )
        port, metrics = free_port(), f"127.0.0.1:{free_port()}"
        process = ends.enter_context(
            child(
                *(*python, "gateway", "--registry", registry, "--metrics-listen", metrics),
                *("--listen", f"127.0.0.1:{port}", "--lane", lane, "--front", front),
                log=folder / "gateway.log",
            )
        )
        wait_port(process, port, folder / "gateway.log")
        client = ends.enter_context(Client(f"127.0.0.1:{port}"))
        told: list[host_pb2.Host] = []
        processes: list[psutil.Process] = []
        ports: list[int] = []
        tempers: list[Path] = []
        for number in range(1, versions + 1):
            model = models.mlp(folder / f"mlp-{number}.onnx", seed=number)
            client.register(MODEL, model, label="live" if number == 1 else f"v{number}")
            for index in range(hosts):
                name = f"v{number}-{index}"
                tempers.append(folder / f"{name}.json")
                _write(tempers[-1], Temper())
                ports.append(free_port())
                host, process_id = _host(ends, folder, name, number, model, tempers[-1], ports[-1])
                told.append(host)
                processes.append(psutil.Process(process_id))
        ends.enter_context(_reporting(registry, told))
        for number in range(1, versions + 1):
            while not client.ready(MODEL, number):
                threading.Event().wait(0.05)
        request = models.request(MODEL, (1, models.WIDTH))
        addresses = tuple(host.address for host in told)
        yield Stage(
            *(f"127.0.0.1:{port}", addresses, client, request, metrics),
            *(psutil.Process(process.pid), tuple(processes)),
            tuple(f"127.0.0.1:{port}" for port in ports),
            tuple(tempers),
        )


def _host(
    ends: ExitStack,
    folder: Path,
    name: str,
    number: int,
    model: Path,
    temper: Path,
    metrics: int,
) -> tuple[host_pb2.Host, int]:
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    log = folder / f"{name}.log"
    process = ends.enter_context(
        child(
            *(sys.executable, "-m", "benchmarks.tail.host", "--model", MODEL),
            *("--version", str(number), "--artifact", model, "--digest", f"sha256:{digest}"),
            *("--listen", "127.0.0.1:0", "--workers", str(WORKERS), "--metrics-port", str(metrics)),
            *("--frames", f"unix:{folder}/{name}.sock", "--temper", temper),
            log=log,
        )
    )
    line = json.loads(wait_line(process, r'^.*"stage": ?"serving".*$', log)[0])
    host = host_pb2.Host(
        id=name,
        version=f"models/{MODEL}/versions/{number}",
        address=line["address"],
        frames_address=line["frames_address"],
        state=host_pb2.Host.STATE_SERVING,
    )
    return host, process.pid


@contextmanager
def _reporting(registry: str, hosts: Sequence[host_pb2.Host]) -> Iterator[None]:
    """Reports the hosts as a supervisor does, again and again."""
    ending = threading.Event()
    request = host_service_pb2.ReportHostsRequest(supervisor="tail", hosts=hosts)
    request.ttl.FromSeconds(30)

    def report() -> None:
        with grpc.insecure_channel(registry) as channel:
            stub = host_service_pb2_grpc.HostServiceStub(channel)
            while True:
                stub.ReportHosts(request, timeout=10)
                if ending.wait(5.0):
                    return

    thread = threading.Thread(target=report)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def yaml_of(**fields: object) -> str:
    """A route as YAML."""
    return yaml.safe_dump(fields)
