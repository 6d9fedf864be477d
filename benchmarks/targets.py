"""What is measured side by side: each target is an address that answers the same call."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from benchmarks.load import ONNXRUNTIME
from benchmarks.peers import install
from benchmarks.processes import (
    DidNotStart,
    Yard,
    child,
    free_port,
    wait_line,
    wait_port,
    yard,
)
from gateway.fronts import envoy as envoy_front

_PEERS = Path(install.__file__).parent
READY = r"^ready (\d+)"
NOT_FETCHED = "not fetched (`make bench-peers`)"


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the tables.

    Attributes:
        key: Its short name.
        title: What it is, for readers.
        address: Where it answers; empty when it is absent.
        parts: Its processes, by what they are; the processes that they start belong to them.
        absent: Why it is not there.
    """

    key: str
    title: str
    address: str = ""
    parts: Mapping[str, int] = field(default_factory=dict)
    absent: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """A running target: see `Target`."""

    address: str
    parts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Setting:
    """What the starters share.

    Attributes:
        stack: Ends every process at the end.
        folder: For logs, sockets and configurations.
        model: The ONNX file.
        name: The model's name in requests.
        yards: The yard, once there is one.
        running: What several targets stand before, once it is there.
    """

    stack: ExitStack
    folder: Path
    model: Path
    name: str
    yards: list[Yard] = field(default_factory=list)
    running: dict[str, Started] = field(default_factory=dict)

    def log(self, key: str) -> Path:
        """The log of a target."""
        return self.folder / f"{key}.log"


def onnxruntime(setting: Setting) -> Started:
    """No server: the model in the client's process."""
    return Started(ONNXRUNTIME + str(setting.model))


def bare(setting: Setting) -> Started:
    """A grpc.aio server that does nothing but run the model."""
    if "bare" not in setting.running:
        command = (sys.executable, "-m", "benchmarks.peers.bare", "--model", setting.model)
        log = setting.log("bare")
        process = setting.stack.enter_context(child(*command, log=log))
        address = f"127.0.0.1:{wait_line(process, READY, log)[1]}"
        setting.running["bare"] = Started(address, {"server": process.pid})
    return setting.running["bare"]


def host(setting: Setting) -> Started:
    """Our host, alone."""
    digest = hashlib.sha256(setting.model.read_bytes()).hexdigest()
    command = (sys.executable, "-m", "services.inference.host", "--model", setting.name)
    flags = ("--version", "1", "--artifact", setting.model, "--digest", f"sha256:{digest}")
    log = setting.log("host")
    listen = ("--listen", "127.0.0.1:0")
    process = setting.stack.enter_context(child(*command, *flags, *listen, log=log))
    line = wait_line(process, r'^.*"stage": ?"serving".*$', log)[0]
    return Started(str(json.loads(line)["address"]), {"host": process.pid})


def _yard(setting: Setting) -> Yard:
    """The one yard, whose one host everything stands before that stands before a host."""
    if not setting.yards:
        running = setting.stack.enter_context(yard(setting.folder, "--front", "http2"))
        running.client.register(setting.name, setting.model, label="live", wait=True)
        setting.yards.append(running)
    return setting.yards[0]


def _host_behind(setting: Setting) -> Started:
    """That host, over gRPC."""
    (serving,) = _yard(setting).client.hosts(setting.name)
    return Started(serving.address, {"host": serving.pid})


def proxy(setting: Setting) -> Started:
    """A bytes-through grpc.aio proxy in front of the yard's host."""
    log, behind = setting.log("proxy"), _host_behind(setting)
    command = (sys.executable, "-m", "benchmarks.peers.proxy", "--upstream", behind.address)
    process = setting.stack.enter_context(child(*command, log=log))
    address = f"127.0.0.1:{wait_line(process, READY, log)[1]}"
    return Started(address, {"proxy": process.pid, **behind.parts})


def envoy(setting: Setting) -> Started:
    """Envoy, one worker, in front of the yard's host."""
    return _envoy(setting, "envoy", _host_behind(setting))


def envoy_before_bare(setting: Setting) -> Started:
    """Envoy, one worker, in front of the bare server."""
    return _envoy(setting, "envoy-bare", bare(setting))


def _envoy(setting: Setting, name: str, behind: Started) -> Started:
    program = install.program("envoy", "envoy")
    if program is None:
        raise DidNotStart(NOT_FETCHED)
    port, log = free_port(), setting.log(name)
    config = setting.folder / f"{name}.yaml"
    if behind.address.startswith("unix:"):
        upstream = f"{{pipe: {{path: {behind.address.removeprefix('unix:')}}}}}"
    else:
        ip, _, behind_port = behind.address.rpartition(":")
        upstream = f"{{socket_address: {{address: {ip}, port_value: {behind_port}}}}}"
    template = Template((_PEERS / "envoy.yaml").read_text())
    # `safe_`: no other dollar is ours.
    config.write_text(template.safe_substitute(PORT=str(port), UPSTREAM=upstream))
    command = (program, "-c", config, "--concurrency", "1", "--log-level", "error")
    process = setting.stack.enter_context(child(*command, "--use-dynamic-base-id", log=log))
    wait_port(process, port, log)
    return Started(f"127.0.0.1:{port}", {"envoy": process.pid, **behind.parts})


def gateway(setting: Setting) -> Started:
    """Our gateway and host as they come: frames between them on one machine."""
    (process,) = _yard(setting).processes("-m gateway --")
    parts = {"gateway": process.pid, **_host_behind(setting).parts}
    return Started(_yard(setting).address, parts)


def gateway_by_grpc(setting: Setting) -> Started:
    """A gateway that asks the same host by gRPC."""
    return _gateway(setting, "gateway-by-grpc", "--front", "http2", "--lane", "grpc")


def gateway_behind_grpcio(setting: Setting) -> Started:
    """A gateway behind grpc.aio, and the same host."""
    return _gateway(setting, "gateway-grpcio", "--front", "grpcio")


def gateway_behind_grpcio_by_grpc(setting: Setting) -> Started:
    """The same, and gRPC to the host."""
    return _gateway(setting, "gateway-grpcio-grpc", "--front", "grpcio", "--lane", "grpc")


def gateway_inside_envoy(setting: Setting) -> Started:
    """A gateway inside Envoy, and the same host."""
    if why := envoy_front.missing():
        raise DidNotStart(why)
    return _gateway(setting, "gateway-inside-envoy", "--front", "envoy")


def gateway_inside_envoy_by_grpc(setting: Setting) -> Started:
    """A gateway inside Envoy that asks the same host by gRPC."""
    if why := envoy_front.missing():
        raise DidNotStart(why)
    flags = ("--front", "envoy", "--lane", "grpc")
    return _gateway(setting, "gateway-inside-envoy-by-grpc", *flags)


def _gateway(setting: Setting, name: str, *flags: str) -> Started:
    """A gateway beside the yard's own."""
    port, log = free_port(), setting.log(name)
    registry = f"unix:{_yard(setting).layout.registry_socket}"
    command = (sys.executable, "-m", "gateway", "--registry", registry, *flags)
    listen = ("--listen", f"127.0.0.1:{port}", "--metrics-listen", f"127.0.0.1:{free_port()}")
    process = setting.stack.enter_context(child(*command, *listen, log=log))
    wait_port(process, port, log)
    parts = {"gateway": process.pid, **_host_behind(setting).parts}
    return Started(f"127.0.0.1:{port}", parts)


def mlserver(setting: Setting) -> Started:
    """MLServer, the model in its own process (`parallel_workers: 0`: its fastest here)."""
    program = install.program("mlserver", "mlserver")
    if program is None:
        raise DidNotStart(NOT_FETCHED)
    folder, port = setting.folder / "mlserver", free_port()
    folder.mkdir()
    (folder / "settings.json").write_text(
        json.dumps(
            {
                "host": "127.0.0.1",
                "http_port": free_port(),
                "grpc_port": port,
                "metrics_port": free_port(),
                "parallel_workers": 0,
                "grpc_max_message_length": 256 << 20,
            }
        )
    )
    (folder / "model-settings.json").write_text(
        json.dumps(
            {
                "name": setting.name,
                "implementation": "mlserver_runtime.OnnxModel",
                "parameters": {"uri": str(setting.model)},
            }
        )
    )
    log = setting.log("mlserver-peer")
    environment = {"PYTHONPATH": str(_PEERS)}
    # Its output is plentiful: into the log, so that no pipe fills.
    command = ("sh", "-c", 'exec "$@" >&2', "sh", program, "start", folder)
    process = setting.stack.enter_context(
        child(*command, log=log, environment=environment, cwd=folder)
    )
    wait_port(process, port, log)
    return Started(f"127.0.0.1:{port}", {"server": process.pid})


def kserve(setting: Setting) -> Started:
    """KServe's model server."""
    python = install.program("kserve", "python")
    if python is None:
        raise DidNotStart(NOT_FETCHED)
    port, log = free_port(), setting.log("kserve")
    command = ("sh", "-c", 'exec "$@" >&2', "sh", python, _PEERS / "kserve_app.py", setting.model)
    process = setting.stack.enter_context(
        child(*command, str(port), str(free_port()), log=log, cwd=setting.folder)
    )
    wait_port(process, port, log)
    return Started(f"127.0.0.1:{port}", {"server": process.pid})


STARTERS: dict[str, tuple[str, Callable[[Setting], Started]]] = {
    "onnxruntime": ("onnxruntime alone, in the client", onnxruntime),
    "bare": ("bare grpc.aio server", bare),
    "host": ("Modelyard host", host),
    "proxy": ("bare grpc.aio proxy + Modelyard host", proxy),
    "envoy": ("Envoy, 1 worker + Modelyard host", envoy),
    "envoy-bare": ("Envoy, 1 worker + bare grpc.aio server", envoy_before_bare),
    "gateway": ("Modelyard gateway + host", gateway),
    "gateway-grpc": ("Modelyard gateway + host, gRPC between them", gateway_by_grpc),
    "gateway-grpcio": ("Modelyard gateway behind grpc.aio + host", gateway_behind_grpcio),
    "gateway-grpcio-grpc": (
        "Modelyard gateway behind grpc.aio + host, gRPC between them",
        gateway_behind_grpcio_by_grpc,
    ),
    "gateway-envoy": ("Modelyard gateway inside Envoy + host", gateway_inside_envoy),
    "gateway-envoy-grpc": (
        "Modelyard gateway inside Envoy + host, gRPC between them",
        gateway_inside_envoy_by_grpc,
    ),
    "mlserver": ("MLServer", mlserver),
    "kserve": ("KServe", kserve),
}


def start(key: str, setting: Setting) -> Target:
    """Starts a target; one that cannot be had says why."""
    title, starter = STARTERS[key]
    try:
        started = starter(setting)
        return Target(key, title, started.address, started.parts)
    except DidNotStart as reason:
        return Target(key, title, absent=str(reason))
