"""The rooms of a yard: how each is started and how each says that it is ready."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelyard import cpus, redis_server
from modelyard.yard.keeper import Room
from modelyard.yard.layout import Layout

_PATIENCE = 1.0
# What the start of a host takes of a processor; and how long a shadow's host that failed rests, at
# first and in the end. An evaluation waits a minute for one that went away.
_START_SECONDS, _LONGEST_REST, _REST_LIMIT = 1.5, 30.0, 240.0
# See the gateway's setting of this name.
FRONTS = ("auto", "http2", "envoy", "grpcio")


@dataclass(frozen=True, slots=True)
class Options:
    """What the person who starts a yard chooses.

    Attributes:
        host: The address that the gateway listens on.
        grpc_port: The gateway's port.
        metrics_port: The gateway's Prometheus port.
        replicas: Hosts of each version.
        redis: A Redis of your own, by URL; the yard starts one when None.
        events: A Redis of your own for the event log; the yard starts one when None.
        redaction: Rules of what is taken out of the event log; a YAML file.
        redaction_key: The key of their hashes; a file.
        insecure: Lets the gateway listen beyond loopback without TLS.
        otlp_endpoint: Where every room's spans go; none are made when empty.
        front: What takes calls at the gateway, of `FRONTS`.
        workers: The gateway's processes.
        shadow_share: The share of the time in which an evaluation's candidates work; None for a
            two-hundredth of the processors.
    """

    host: str = "127.0.0.1"
    grpc_port: int = 8001
    metrics_port: int = 8002
    replicas: int = 1
    redis: str | None = None
    events: str | None = None
    redaction: Path | None = None
    redaction_key: Path | None = None
    insecure: bool = False
    otlp_endpoint: str = ""
    front: str = "auto"
    workers: int = 1
    shadow_share: float | None = None

    @property
    def address(self) -> str:
        """Where clients on this machine find the gateway."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104
        return f"{host}:{self.grpc_port}"

    @property
    def share(self) -> float:
        """The share of the time in which an evaluation's candidates work."""
        if self.shadow_share is not None:
            return self.shadow_share
        # One replay keeps one processor. Its work beside live calls costs them their tail, idle
        # policy or not, and the less, the smaller a part of all that there is it takes.
        return min(1.0, cpus.available() / 200)


def redis(layout: Layout) -> Room:
    """A Redis of the yard's own, which acknowledges a write when it is on the disk."""
    return Room(
        name="redis",
        argv=tuple(redis_server.command(layout.redis, layout.redis_socket)),
        log=layout.logs / "redis.log",
        ready=lambda: asyncio.to_thread(redis_server.answers, layout.redis_socket),
    )


def events(layout: Layout) -> Room:
    """A second Redis, for the event log, so that neither slows the other; it syncs each second."""
    command = redis_server.command(layout.events, layout.events_socket, fsync="everysec")
    return Room(
        name="events",
        argv=tuple(command),
        log=layout.logs / "events.log",
        ready=lambda: asyncio.to_thread(redis_server.answers, layout.events_socket),
    )


def events_url(layout: Layout, options: Options) -> str:
    """The event log's Redis."""
    return options.events or f"unix://{layout.events_socket}"


def registry(layout: Layout, options: Options) -> Room:
    """The registry."""
    address = f"unix:{layout.registry_socket}"
    url = options.redis or f"unix://{layout.redis_socket}"
    return _room(
        layout,
        options,
        "registry",
        address,
        "services.registry",
        *("--listen", address, "--redis", url, "--artifacts", str(layout.artifacts)),
    )


def inference(layout: Layout, options: Options) -> Room:
    """The supervisor of the hosts."""
    address = f"unix:{layout.inference_socket}"
    return _room(
        layout,
        options,
        "inference",
        address,
        "services.inference",
        *("--listen", address, "--registry", f"unix:{layout.registry_socket}"),
        *("--artifacts", str(layout.artifacts), "--data-dir", str(layout.inference)),
        *("--run-dir", str(layout.run), "--replicas", str(options.replicas)),
    )


def shadow_hosts(layout: Layout, options: Options) -> Room:
    """The supervisor of the hosts that only evaluations ask; they take what callers leave over."""
    # Nobody waits for them, and a start is work: they rest after it as they do after a replay.
    rest = min(_START_SECONDS / options.share, _LONGEST_REST)
    return _room(
        layout,
        options,
        "shadow-hosts",
        f"unix:{layout.shadow_hosts_socket}",
        "services.inference",
        *("--listen", f"unix:{layout.shadow_hosts_socket}", "--pool", "shadow", "--background"),
        *("--registry", f"unix:{layout.registry_socket}", "--artifacts", str(layout.artifacts)),
        *("--data-dir", str(layout.shadow), "--run-dir", str(layout.shadow_run)),
        *("--retry-first", f"{rest:g}", "--retry-limit", f"{_REST_LIMIT:g}"),
    )


def shadow(layout: Layout, options: Options) -> Room:
    """The shadow service."""
    return _room(
        layout,
        options,
        "shadow",
        f"unix:{layout.shadow_socket}",
        "services.shadow",
        *("--listen", f"unix:{layout.shadow_socket}", "--background"),
        *("--share", f"{options.share:g}"),
        *("--registry", f"unix:{layout.registry_socket}"),
        *("--redis", options.redis or f"unix://{layout.redis_socket}"),
        *("--events", events_url(layout, options), "--payloads", str(layout.payloads)),
        *("--archive", str(layout.archive)),
    )


def archive(layout: Layout, options: Options) -> Room:
    """The archive's writer."""
    return _room(
        layout,
        options,
        "archive",
        f"unix:{layout.archive_socket}",
        "services.archive",
        *("--listen", f"unix:{layout.archive_socket}", "--background"),
        *("--events", events_url(layout, options), "--payloads", str(layout.payloads)),
        *("--archive", str(layout.archive), "--flush-seconds", "10"),
    )


def gateway(layout: Layout, options: Options) -> Room:
    """The gateway."""
    return _room(
        layout,
        options,
        "gateway",
        options.address,
        "gateway",
        *("--listen", f"{options.host}:{options.grpc_port}"),
        *("--metrics-listen", f"{options.host}:{options.metrics_port}"),
        *("--registry", f"unix:{layout.registry_socket}"),
        *("--events", events_url(layout, options), "--payloads", str(layout.payloads)),
        *("--shadow", f"unix:{layout.shadow_socket}"),
        *(("--redaction", str(options.redaction)) if options.redaction else ()),
        *(("--redaction-key", str(options.redaction_key)) if options.redaction_key else ()),
        *(("--insecure",) if options.insecure else ()),
        *("--front", options.front, "--workers", str(options.workers)),
    )


def _room(
    layout: Layout, options: Options, name: str, address: str, module: str, *flags: str
) -> Room:
    if options.otlp_endpoint:
        flags += ("--otlp-endpoint", options.otlp_endpoint)
    # The supervisor gives its hosts time to finish their calls first, and so ends last of all.
    return Room(
        name=name,
        argv=(sys.executable, "-m", module, *flags),
        log=layout.logs / f"{name}.log",
        ready=lambda: _is_healthy(address),
        grace=60.0,
    )


async def _is_healthy(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
