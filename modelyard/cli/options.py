"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from modelyard.client import Client

Address: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="MODELYARD_ADDRESS",
        help="The yard, as host:port or unix:/path.  [default: 127.0.0.1:8001]",
    ),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Note: TypeAlias = Annotated[str, typer.Option("--note", help="Why, for the history.")]
Timeout: TypeAlias = Annotated[
    float | None, typer.Option("--timeout", min=0.001, help="Seconds to wait.  [default: 600]")
]


def complete_model(incomplete: str) -> list[str]:
    """Names of models that begin so; none where no yard answers."""
    try:
        with Client() as client:
            names = [model.name.removeprefix("models/") for model in client.models()]
    # A shell's completion must never print an error into the line that is being typed.
    except Exception:
        return []
    return [name for name in names if name.startswith(incomplete)]


Model: TypeAlias = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The model's name.", autocompletion=complete_model),
]
OptionalModel: TypeAlias = Annotated[
    str | None,
    typer.Argument(metavar="[NAME]", help="One model only.", autocompletion=complete_model),
]
VersionNumber: TypeAlias = Annotated[
    int, typer.Argument(metavar="VERSION", min=1, help="The version's number.")
]
Data: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--data",
        envvar="MODELYARD_DATA",
        file_okay=False,
        help="The folder of what must last.  [default: ~/.local/share/modelyard]",
    ),
]
