"""`modelyard serve`: model files, served by this process."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelyard.cli.options import Json
from modelyard.cli.output import print_json

if TYPE_CHECKING:
    from services.embedded.server import Ready


def serve(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE.onnx...",
            help="Models: a file, whose name is the model's, or NAME=FILE; also a folder of one"
            " model with its external data.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="The model's name, of a single file.")
    ] = None,
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
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    listen: Annotated[
        str | None,
        typer.Option("--listen", help="unix:/path or host:port, in place of host and port."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond loopback without TLS.")
    ] = False,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", help="The server's certificates, PEM.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", help="The certificate's key, PEM.")
    ] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option("--tls-client-ca", help="Who may call: certificates, PEM.")
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", min=0, help="Of onnxruntime; 0: as many as processors.")
    ] = 0,
    otlp_endpoint: Annotated[
        str,
        typer.Option("--otlp-endpoint", help="Where spans go, such as http://127.0.0.1:4317."),
    ] = "",
    json: Json = False,
) -> None:
    """Serve model files from this one process, until Ctrl-C or SIGTERM.

    No registry, no Redis, no supervisor: each file is the only version of its model, for as long
    as the process lives. Prints a line that begins with `ready` once it serves.
    """
    try:
        # The gateway and a host in this process (docs/adr/0014): the reason why a command may
        # import rooms.
        from services.embedded import models, server
    except ImportError as error:
        sys.exit(f"error: serve needs {error.name}: pip install 'modelyard[embedded]'")

    if name is not None:
        if len(files) != 1:
            raise typer.BadParameter("of one file; give NAME=FILE for each", param_hint="--name")
        files = [f"{name}={files[0]}"]
    given: dict[str, Any] = {
        "listen": listen or f"{host}:{grpc_port}",
        "metrics-listen": f"{host}:{metrics_port}",
        "tls-cert": tls_cert,
        "tls-key": tls_key,
        "tls-client-ca": tls_client_ca,
        "threads": threads or None,
        "otlp-endpoint": otlp_endpoint or None,
    }
    flags = [f"--{key}={value}" for key, value in given.items() if value is not None]
    if insecure:
        flags.append("--insecure")
    server.serve(models.named(files), flags, _say_json if json else _say)


def _say(ready: "Ready") -> None:
    names = ", ".join(model.version.model for model in ready.models)
    print(f"ready {ready.address} (metrics {ready.metrics}, models {names})", flush=True)


def _say_json(ready: "Ready") -> None:
    print_json(
        {
            "ready": True,
            "address": ready.address,
            "metrics": ready.metrics,
            "models": [
                {
                    "name": model.version.model,
                    "version": model.version.number,
                    "file": str(model.path),
                    **{
                        role: [
                            {"name": t.name, "datatype": t.datatype, "shape": list(t.dims)}
                            for t in getattr(model.model.signature, role)
                        ]
                        for role in ("inputs", "outputs")
                    },
                }
                for model in ready.models
            ],
        }
    )
