"""Evaluations from the command line: started, stopped, watched, told."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from modelyard.cli import plan as plans
from modelyard.cli.options import Address, Json, Model, Note, OptionalModel
from modelyard.cli.output import age, as_dict, as_dicts, console, errors, print_json, print_table
from modelyard.cli.report import shown, state_of, verdict_of
from modelyard.client import Client
from modelyard.errors import EvaluationNotFound
from modelyard.names import LIVE
from modelyard.shadow.v1 import evaluation_pb2, report_pb2

app = typer.Typer(
    no_args_is_help=True, help="Compare versions on real requests, off the path of the calls."
)

# What `--wait` ends with, so that a pipeline can go on by it.
REJECTED, UNDECIDED = 4, 5

Evaluation = Annotated[
    str,
    typer.Argument(
        metavar="EVALUATION", help="models/M/evaluations/ID, or a model: its latest evaluation."
    ),
]


@app.command()
def start(
    name: Model,
    candidates: Annotated[
        list[str], typer.Argument(metavar="CANDIDATE...", help="Version numbers or labels.")
    ],
    baseline: Annotated[
        str, typer.Option("--baseline", help="The version or label to compare with.")
    ] = LIVE,
    sample: Annotated[
        float, typer.Option("--sample", help="The share of the live calls that is replayed.")
    ] = 1.0,
    again: Annotated[
        float,
        typer.Option("--again", help="The share of those that the baseline is given again."),
    ] = 0.2,
    gates: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="GATE",
            help="What must hold: difference=0.02, difference:OUTPUT=0.01, errors=0.005,"
            " latency@0.99=1.5, loss=0. Again for each.",
        ),
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option(
            "--slice",
            metavar="SLICE",
            help="Look at parts: metadata:KEY, input:NAME@18,65, output:NAME, rows.",
        ),
    ] = None,
    comparators: Annotated[
        list[str] | None,
        typer.Option("--comparator", metavar="OUTPUT=KIND", help="How an output is compared."),
    ] = None,
    losses: Annotated[
        list[str] | None,
        typer.Option("--loss", metavar="OUTPUT=KIND", help="How an output is judged by the truth."),
    ] = None,
    alpha: Annotated[
        float, typer.Option("--alpha", help="The probability of a false promotion, at most.")
    ] = 0.05,
    max_events: Annotated[
        int, typer.Option("--max-events", help="End without a verdict after so many.")
    ] = 100_000,
    max_time: Annotated[
        str, typer.Option("--max-time", metavar="TIME", help="The same, such as 2h or 7d.")
    ] = "7d",
    max_rate: Annotated[
        float, typer.Option("--max-rate", help="Replay at most so many a second; 0: no limit.")
    ] = 0.0,
    concurrency: Annotated[
        int, typer.Option("--concurrency", help="Requests that are replayed at a time.")
    ] = 1,
    canary: Annotated[
        bool, typer.Option("--canary", help="Compare without an end: an alarm for drift.")
    ] = False,
    since: Annotated[
        str,
        typer.Option("--since", metavar="TIME", help="Test back on the archive, from here: 2h."),
    ] = "",
    until: Annotated[
        str, typer.Option("--until", metavar="TIME", help="Up to here.  [default: now]")
    ] = "",
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Watch until the verdict; exit code 4: rejected, 5: none."),
    ] = False,
    note: Note = "",
    json: Json = False,
    address: Address = None,
) -> None:
    """Start to evaluate candidates beside a baseline."""
    plan = evaluation_pb2.Plan(
        sample=sample,
        baseline_sample=again,
        gates=[plans.gate(text) for text in gates or ()],
        alpha=alpha,
        slices=slices or (),
        max_events=max_events,
        max_rate=max_rate,
        concurrency=concurrency,
        canary=canary,
    )
    plan.max_time.FromTimedelta(plans.span("--max-time", max_time))
    for output, tree in plans.settings("--comparator", comparators or ()).items():
        plan.comparators[output].update(tree)
    for output, tree in plans.settings("--loss", losses or ()).items():
        plan.losses[output].update(tree)
    now = datetime.now(UTC)
    if since:
        plan.window.start.FromDatetime(plans.moment("--since", since, now))
        plan.window.end.FromDatetime(plans.moment("--until", until, now) if until else now)
    elif until:
        raise typer.BadParameter("--until needs --since")
    with Client(address) as client:
        made = client.start_evaluation(name, candidates, baseline=baseline, plan=plan, note=note)
        if wait:
            _watch(client, made.name, json)
            return
    print_json(as_dict(made)) if json else print(made.name)


@app.command()
def stop(evaluation: Evaluation, json: Json = False, address: Address = None) -> None:
    """Stop an evaluation; what it found is kept."""
    with Client(address) as client:
        stopped = client.stop_evaluation(_named(client, evaluation))
    print_json(as_dict(stopped)) if json else print(f"{stopped.name} {state_of(stopped)}")


@app.command("list")
def list_(name: OptionalModel = None, json: Json = False, address: Address = None) -> None:
    """List evaluations, the latest first."""
    with Client(address) as client:
        found = client.evaluations(name)
    if json:
        print_json(as_dicts(found))
        return
    print_table(
        {
            "evaluation": "left",
            "candidates": "left",
            "baseline": "right",
            "state": "left",
            "started": "right",
            "why": "left",
        },
        (
            (
                one.name,
                ", ".join(map(str, one.candidates)),
                str(one.baseline),
                state_of(one),
                f"{age(one.start_time)} ago",
                one.note or one.reason,
            )
            for one in found
        ),
        empty="no evaluations",
    )


@app.command()
def report(
    evaluation: Evaluation,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE.html", help="Write one page with pictures there."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it until it ends; exit codes as of --wait.")
    ] = False,
    json: Json = False,
    address: Address = None,
) -> None:
    """Print what an evaluation has found."""
    with Client(address) as client:
        name = _named(client, evaluation)
        if watch:
            _watch(client, name, json)
            return
        found = client.report(name)
    if html is not None:
        try:
            from modelyard.cli.report_html import page
        except ImportError as error:
            sys.exit(f"error: the page needs {error.name}: pip install 'modelyard[report]'")
        html.write_text(page(found), encoding="utf-8")
        errors.print(f"{html} written", highlight=False)
        return
    print_json(as_dict(found)) if json else console.print(shown(found))


def _named(client: Client, text: str) -> str:
    """An evaluation's name; of a model, its latest evaluation's."""
    if text.startswith("models/") and "/evaluations/" in text:
        return text
    found = client.evaluations(text.removeprefix("models/"))
    if not found:
        raise EvaluationNotFound(f"{text!r} has no evaluations", name=text)
    return found[0].name


def _watch(client: Client, name: str, json: bool) -> None:
    """Shows an evaluation until it ends, then ends the process by what it found."""
    last = report_pb2.Report()
    if json:
        for last in client.reports(name):
            print_json(as_dict(last))
    else:
        with Live(console=console, auto_refresh=False) as live:
            for last in client.reports(name):
                live.update(shown(last), refresh=True)
    _end([candidate.verdict for candidate in last.candidates])


def _end(verdicts: "Sequence[report_pb2.Verdict.ValueType]") -> None:
    if verdict_of(verdicts) == report_pb2.VERDICT_REJECT:
        raise typer.Exit(REJECTED)
    if verdict_of(verdicts) != report_pb2.VERDICT_PROMOTE:
        raise typer.Exit(UNDECIDED)


def feedback(
    name: Model,
    request_id: Annotated[
        str, typer.Argument(metavar="REQUEST_ID", help="As the call's answer told it.")
    ],
    truths: Annotated[
        list[str],
        typer.Argument(metavar="OUTPUT=JSON...", help="What it should have been: label=[7]."),
    ],
    json: Json = False,
    address: Address = None,
) -> None:
    """Tell what the outputs of an earlier call should have been."""
    told = {}
    for text in truths:
        output, equals, value = text.partition("=")
        if not output or not equals:
            raise typer.BadParameter(f"{text!r} is not of the form OUTPUT=JSON")
        told[output] = plans.value(text, value)
    with Client(address) as client:
        event = client.feedback(name, request_id, told)
    print_json({"event_id": event}) if json else print(event)
