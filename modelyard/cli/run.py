"""Commands that run something on this machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from modelyard import __version__
from modelyard.cli.options import Data


def up(
    data: Data = None,
    grpc_port: Annotated[
        int,
        typer.Option("--grpc-port", min=0, max=65535, help="Port of calls; 0 takes a free one."),
    ] = 8001,
    metrics_port: Annotated[
        int,
        typer.Option(
            "--metrics-port", min=0, max=65535, help="Port of Prometheus; 0 takes a free one."
        ),
    ] = 8002,
    redis: Annotated[
        str | None,
        typer.Option("--redis", help="A Redis of yours, by URL.  [default: one of the yard's own]"),
    ] = None,
    events: Annotated[
        str | None,
        typer.Option(
            "--events",
            help="A Redis of yours for the event log, by URL.  [default: one of the yard's own]",
        ),
    ] = None,
    redaction: Annotated[
        Path | None,
        typer.Option("--redaction", metavar="FILE.yaml", help="What no log may keep.", exists=True),
    ] = None,
    redaction_key: Annotated[
        Path | None,
        typer.Option("--redaction-key", metavar="FILE", help="The key of its hashes.", exists=True),
    ] = None,
    replicas: Annotated[
        int, typer.Option("--replicas", min=1, max=64, help="Hosts of each version.")
    ] = 1,
    otlp_endpoint: Annotated[
        str,
        typer.Option("--otlp-endpoint", help="Where spans go, such as http://127.0.0.1:4317."),
    ] = "",
    front: Annotated[
        str,
        typer.Option(
            "--front", metavar="auto|http2|envoy|grpcio", help="What takes calls; auto: http2."
        ),
    ] = "auto",
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, max=64, help="Gateway processes behind the port."),
    ] = 1,
    shadow_share: Annotated[
        float | None,
        typer.Option(
            "--shadow-share",
            min=0.001,
            max=1.0,
            help="The share of the time in which an evaluation's candidates work; then they rest."
            "  [default: a two-hundredth of the processors]",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond loopback without TLS.")
    ] = False,
) -> None:
    """Run the whole yard in the foreground, until Ctrl-C or SIGTERM.

    Prints a line that begins with `ready` once it serves.
    """
    try:
        from modelyard.yard import yard
        from modelyard.yard.layout import layout
        from modelyard.yard.rooms import FRONTS, Options
    except ImportError as error:
        sys.exit(f"error: a yard needs {error.name}: pip install 'modelyard[yard]'")

    if front not in FRONTS:
        raise typer.BadParameter(f"{front!r}: one of {', '.join(FRONTS)}", param_hint="--front")
    options = Options(
        host=host,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        replicas=replicas,
        redis=redis,
        events=events,
        redaction=redaction.resolve() if redaction else None,
        redaction_key=redaction_key.resolve() if redaction_key else None,
        insecure=insecure,
        otlp_endpoint=otlp_endpoint,
        front=front,
        workers=workers,
        shadow_share=shadow_share,
    )
    yard.run(
        layout(data),
        options,
        announce=lambda line: print(line, flush=True),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave its yard up, on the default ports.")
    ] = False,
    address: Annotated[
        str | None,
        typer.Option("--address", help="Show it on this yard.  [default: one of its own]"),
    ] = None,
) -> None:
    """Take the tour on real models: register, infer, hand over, survive a kill, roll back."""
    try:
        from modelyard.demo import tour
    except ImportError as error:
        sys.exit(f"error: the demo needs {error.name}: pip install 'modelyard[demo]'")

    sys.exit(tour.run(keep=keep, address=address))


def version() -> None:
    """Print Modelyard's own version."""
    print(__version__)
