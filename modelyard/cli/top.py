"""Watching calls as they are answered."""

import sys
from collections.abc import Mapping
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from modelyard.cli.options import Address
from modelyard.cli.output import as_dict, console, print_json
from modelyard.client import Client
from modelyard.gateway.v1 import gateway_service_pb2 as gateway


def top(
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, help="Seconds between two looks.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="One look only.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a look.")] = False,
    address: Address = None,
) -> None:
    """Watch the traffic by version, until Ctrl-C."""
    with Client(address) as client:
        looks = client.traffic(interval)
        try:
            if json:
                for look in looks:
                    print_json(as_dict(look))
                    if once:
                        return
            elif once or not sys.stdout.isatty():
                for look in looks:
                    console.print(_table(look))
                    if once:
                        return
            else:
                with Live(console=console, screen=True, auto_refresh=False) as live:
                    for look in looks:
                        live.update(_table(look), refresh=True)
        except KeyboardInterrupt:
            return


def _table(look: gateway.WatchTrafficResponse) -> Table:
    seconds = look.interval.ToTimedelta().total_seconds() or 1.0
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.title = f"revision {look.revision}"
    table.add_column("version")
    for title in _COLUMNS:
        table.add_column(title, justify="right")
    for row in look.traffic:
        kinds = {counted.kind: counted for counted in row.attempts}
        started = sum(counted.started for counted in row.attempts)
        hedges = kinds.get("hedge")
        table.add_row(
            row.version.removeprefix("models/").replace("/versions/", " ") or "(unknown)",
            f"{(row.succeeded + row.failed) / seconds:.1f}",
            f"{row.failed / seconds:.1f}",
            str(row.pending),
            *(
                _milliseconds(latency.ToTimedelta().total_seconds())
                for latency in (row.latency_p50, row.latency_p99, row.latency_p999)
            ),
            f"{row.retries / seconds:.1f}",
            _share(hedges.started if hedges else 0, started),
            _share(hedges.won if hedges else 0, hedges.started if hedges else 0),
            *(f"{_won(kinds, kind) / seconds:.1f}" for kind in ("fallback", "default")),
            f"{row.budget_exhausted / seconds:.1f}",
        )
    return table


# hedged: the share of attempts that are hedges; of them, won.
_COLUMNS = (
    *("calls/s", "failed/s", "in flight", "p50", "p99", "p99.9", "retries/s"),
    *("hedged", "won", "fallbacks/s", "defaults/s", "no budget/s"),
)


def _won(kinds: Mapping[str, gateway.AttemptCount], kind: str) -> int:
    return kinds[kind].won if kind in kinds else 0


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
