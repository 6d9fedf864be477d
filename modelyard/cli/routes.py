"""The route of a model: shown, replaced, explained, measured, proposed."""

import sys
from typing import Annotated

import typer
import yaml
from rich.table import Table

from modelyard.cli.options import Address, Json, Model, Note
from modelyard.cli.output import as_dict, console, print_json
from modelyard.cli.route_yaml import (
    dump,
    duration,
    duration_text,
    parse,
    rendezvous_tree,
)
from modelyard.client import Client
from modelyard.errors import InvalidArgument
from modelyard.gateway.v1 import gateway_service_pb2 as gateway
from modelyard.gateway.v1 import route_pb2

# Quantiles of a curve that are shown.
_SHOWN = (0.5, 0.9, 0.99, 0.999)


def route(
    name: Model,
    file: Annotated[
        typer.FileText | None,
        typer.Option(
            "-f", "--file", metavar="ROUTE.yaml", help="Replace it by this; - reads stdin."
        ),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Go back to the default one.")] = False,
    check: Annotated[bool, typer.Option("--check", help="With -f: check it only.")] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="The plan of a call; with -f, of a call by that route."),
    ] = False,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="K=V", help="With --explain: what the call sends."),
    ] = None,
    version: Annotated[
        str, typer.Option("--version", help="With --explain: the version or label it names.")
    ] = "",
    curves: Annotated[
        bool, typer.Option("--curves", help="The share of attempts answered by each moment.")
    ] = False,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="A rendezvous that keeps --sla, by the curves.")
    ] = False,
    sla: Annotated[
        str, typer.Option("--sla", metavar="TIME", help="With --suggest: such as 200ms.")
    ] = "",
    miss: Annotated[
        float,
        typer.Option("--miss", min=0, max=1, help="With --suggest: calls that may go without."),
    ] = 0.001,
    note: Note = "",
    json: Json = False,
    address: Address = None,
) -> None:
    """Print a model's route as YAML, or replace, explain, measure or propose it."""
    if sum((reset, bool(file), curves, suggest)) > 1 or (explain and (reset or curves or suggest)):
        raise typer.BadParameter(
            "-f, --reset, --explain, --curves and --suggest exclude each other"
        )
    if not miss:
        raise typer.BadParameter("--miss 0 cannot be kept: no curve reaches all calls")
    if suggest and not sla:
        raise typer.BadParameter("--suggest needs --sla")
    with Client(address) as client:
        if explain:
            tried = parse(file.read()) if file else None
            plan = client.explain(name, version, metadata=_pairs(metadata or ()), route=tried)
            print_json(as_dict(plan)) if json else _print_plan(plan)
            return
        if curves:
            found = client.curves(name)
            print_json(as_dict(found)) if json else _print_curves(found)
            return
        if suggest:
            limit = duration("--sla", sla).total_seconds()
            proposed = client.suggest(name, deadline=limit, miss=miss)
            print_json(as_dict(proposed)) if json else _print_proposal(proposed, sla, miss)
            return
        if reset:
            client.remove_route(name, note=note)
        if file is None:
            current = client.route(name)
        else:
            current = client.replace_route(name, parse(file.read()), validate_only=check, note=note)
    print_json(as_dict(current)) if json else sys.stdout.write(dump(current))


def _pairs(given: "list[str] | tuple[str, ...]") -> dict[str, str]:
    pairs = {}
    for text in given:
        key, found, value = text.partition("=")
        if not found or not key:
            raise InvalidArgument(f"--metadata {text!r} is not KEY=VALUE", field="metadata")
        pairs[key.lower()] = value
    return pairs


def _short(version: str) -> str:
    return version.removeprefix("models/").replace("/versions/", " ")


def _print_plan(plan: gateway.ExplainRouteResponse) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    deadline = duration_text(plan.deadline.ToTimedelta())
    table.title = f"chosen by {plan.chosen_by}, deadline {deadline}, revision {plan.revision}"
    for title in ("attempt", "version", "starts", "counts from", "when"):
        table.add_column(title)
    for attempt in plan.attempts:
        starts = ""
        if attempt.HasField("start_at"):
            starts = duration_text(attempt.start_at.ToTimedelta())
        table.add_row(
            attempt.kind,
            _short(attempt.version),
            starts,
            duration_text(attempt.accept_from.ToTimedelta()),
            attempt.when,
        )
    console.print(table)


def _print_curves(found: gateway.GetCurvesResponse) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("version")
    for title in ("answered", "failed", "cancelled", *(f"{q:.1%} by" for q in _SHOWN), "95 %"):
        table.add_column(title, justify="right")
    for curve in found.curves:
        reached = [_first(curve, share) for share in _SHOWN]
        last = curve.points[-1] if curve.points else None
        table.add_row(
            _short(curve.version),
            *(str(n) for n in (curve.answered, curve.failed, curve.cancelled)),
            *(duration_text(p.after.ToTimedelta()) if p else "never" for p in reached),
            f"{last.lower:.4f} to {last.upper:.4f}" if last else "",
        )
    console.print(table)
    console.print("The last column: the share that ever answers, and its confidence interval.")


def _first(curve: gateway.Curve, share: float) -> gateway.CurvePoint | None:
    """The first moment by which a share has answered."""
    return next((point for point in curve.points if point.answered >= share), None)


def _print_proposal(proposed: gateway.SuggestRendezvousResponse, sla: str, miss: float) -> None:
    shown = route_pb2.Route(rendezvous=proposed.rendezvous)
    tree = {"rendezvous": [rendezvous_tree(meeting) for meeting in shown.rendezvous]}
    sys.stdout.write(yaml.safe_dump(tree, sort_keys=False, default_flow_style=None))
    for meeting, share in zip(proposed.rendezvous, proposed.shares, strict=True):
        print(f"# version {meeting.target.version} answers {share:.2%}")
    kept = "kept" if proposed.kept else "NOT kept: add a fallback"
    print(
        f"# {proposed.miss:.3%} of calls get no version's answer within {sla};"
        f" {miss:.3%} asked for: {kept}"
    )
