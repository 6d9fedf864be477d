"""A host's settings: flags, each checked; the supervisor that starts it gives them all."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelyard.errors import InvalidName
from modelyard.names import VersionName, check_model

_MESSAGE = 128 << 20
LONGEST_PATH = 107


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What a host is told.

    Attributes:
        version: What it serves.
        artifact: The model's file, or the folder with it and its external data.
        digest: What the artifact's sha256 must be.
        listen: `unix:/path` or `host:port`, port 0 for any free one.
        frames: Where it also takes frames, `unix:/path`; None for nowhere.
        golden: A golden sample to prove before serving.
        threads: Of onnxruntime; 0 counts the processors that this process may use.
        workers: Runs under way at once; 0 for as many as threads.
        queue: Calls that may wait for a run.
        providers: Execution providers, the preferred first.
        max_message_bytes: Of one request or response.
        drain_propagation: How long a draining host still takes calls, in seconds: until
            those who choose hosts have heard of it.
        drain_grace: How long calls may go on after SIGTERM, in seconds.
        metrics_port: Where Prometheus reads on loopback; 0 for nowhere.
        alive_file: What the supervisor touches every second; None for no supervisor.
        orphan_grace: How long to serve on without one, in seconds.
        otlp_endpoint: Where spans go; none are made when empty.
    """

    version: VersionName
    artifact: Path
    digest: str
    listen: str
    frames: str | None
    golden: Path | None
    threads: int
    workers: int
    queue: int
    providers: tuple[str, ...]
    max_message_bytes: int
    drain_propagation: float
    drain_grace: float
    metrics_port: int
    alive_file: Path | None
    orphan_grace: float
    otlp_endpoint: str
    # The gateway follows hosts by the registry, not by connections that age.
    max_connection_age: float = 0.0

    def credentials(self) -> None:
        """None: hosts listen where only their machine or its mesh reaches them."""


def parse(argv: Sequence[str] | None = None) -> HostSettings:
    """Reads the flags; a wrong one is named with its value, and ends the process with 2."""
    parser = argparse.ArgumentParser("python -m services.inference.host")
    add = parser.add_argument
    add("--model", required=True, type=_model)
    add("--version", required=True, type=_from(1, 2**63 - 1))
    add("--artifact", required=True, type=Path)
    add("--digest", required=True, type=_digest)
    add("--listen", required=True, type=_listen)
    add("--frames", type=_socket)
    add("--golden", type=Path)
    add("--threads", type=_from(0), default=0)
    add("--workers", type=_from(0), default=0)
    add("--queue", type=_from(0), default=256)
    add("--providers", type=_providers, default=("CPUExecutionProvider",))
    add("--max-message-bytes", type=_from(1), default=_MESSAGE)
    add("--drain-propagation", type=_seconds, default=0.5)
    add("--drain-grace", type=_seconds, default=30.0)
    add("--metrics-port", type=_PORT, default=0)
    add("--alive-file", type=Path)
    add("--orphan-grace", type=_seconds, default=15.0)
    add("--otlp-endpoint", default="")
    given = vars(parser.parse_args(argv))
    version = VersionName(given.pop("model"), given.pop("version"))
    return HostSettings(version=version, **given)


def _model(text: str) -> str:
    try:
        return check_model(text)
    except InvalidName as error:
        raise argparse.ArgumentTypeError(error.message) from None


class _from:
    """A whole number within bounds; the upper one is what C's int holds, unless told."""

    def __init__(self, least: int, most: int = 2**31 - 1) -> None:
        self._least, self._most = least, most

    def __call__(self, text: str) -> int:
        # Of a longer one int() would take its time.
        digits = text.isascii() and text.isdigit() and len(text) <= 19
        if not digits or not self._least <= int(text) <= self._most:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no whole number from {self._least} to {self._most}"
            )
        return int(text)


_PORT = _from(0, 65535)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0")
    return seconds


def _digest(text: str) -> str:
    hexdigest = text.removeprefix("sha256:")
    if len(hexdigest) != 64 or set(hexdigest) - set("0123456789abcdef"):
        raise argparse.ArgumentTypeError(f"{text!r} is not sha256: and 64 hex digits")
    return f"sha256:{hexdigest}"


def _socket(text: str) -> str:
    if not text.startswith("unix:"):
        raise argparse.ArgumentTypeError(f"{text!r} is not unix:/path")
    # The kernel keeps 108 bytes for the path, its end included.
    if not 0 < len(text.removeprefix("unix:").encode()) <= LONGEST_PATH:
        raise argparse.ArgumentTypeError(f"{text!r}: a socket's path has 1 to {LONGEST_PATH} bytes")
    return text


def _listen(text: str) -> str:
    if text.startswith("unix:"):
        return _socket(text)
    host, _, port = text.rpartition(":")
    if not host:
        raise argparse.ArgumentTypeError(f"{text!r} is neither unix:/path nor host:port")
    try:
        _PORT(port)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    return text


def _providers(text: str) -> tuple[str, ...]:
    providers = tuple(p.strip() for p in text.split(","))
    if not all(providers):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of providers, A,B")
    return providers
