"""The archive from the command line: asked, exported, and one call told whole."""

import json as json_text
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from modelyard.cli.changes import described
from modelyard.cli.options import Address, Json, Model
from modelyard.cli.output import console, errors, print_json, print_table
from modelyard.cli.plan import moment
from modelyard.client import Client
from modelyard.errors import InvalidArgument, ModelyardError, NotFound
from modelyard.yard.layout import layout

if TYPE_CHECKING:
    from modelyard.archive.reading import Archive, Query

app = typer.Typer(
    no_args_is_help=True, help="What was asked and answered: ask it, export it, tell one call."
)

Place = Annotated[
    str | None,
    typer.Option(
        "--archive",
        envvar="MODELYARD_ARCHIVE",
        help="A folder or an fsspec URL.  [default: below the yard's data folder]",
    ),
]
Since = Annotated[
    str, typer.Option("--since", metavar="TIME", help="From then on: 2026-03-01T12:00, or 2h.")
]
Until = Annotated[str, typer.Option("--until", metavar="TIME", help="Before then.")]
VersionOption = Annotated[
    int | None, typer.Option("--version", min=1, help="Answered by this version.")
]
Failed = Annotated[
    bool | None, typer.Option("--failed/--answered", help="Those that failed, or did not.")
]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Of this tenant.")]
Disagreeing = Annotated[
    bool, typer.Option("--disagreeing", help="Whose truth is known and was another one.")
]

# Written at a time, and read: an export takes no more memory than this.
_BATCH = 4096
_COLUMNS = ["time", "request_id", "version", "attempt", "duration", "error", "outputs"]


@app.command()
def query(
    name: Model,
    since: Since = "",
    until: Until = "",
    version: VersionOption = None,
    tenant: Tenant = None,
    failed: Failed = None,
    disagreeing: Disagreeing = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
    archive: Place = None,
    json: Json = False,
) -> None:
    """Print calls, the earliest first."""
    asked = _query(name, since, until, version, tenant, failed)
    rows = _rows(_open(archive), asked, _COLUMNS, disagreeing)
    found = [row for row, _ in zip(rows, range(limit), strict=False)]
    if json:
        for row in found:
            print(json_text.dumps(_plain(row)))
        return
    print_table(
        {
            "time": "left",
            "request": "left",
            "version": "right",
            "attempt": "left",
            "took": "right",
            "outputs": "left",
        },
        (
            (
                row["time"].astimezone().strftime("%Y-%m-%d %H:%M:%S"),
                row["request_id"],
                str(row["version"] or ""),
                row["attempt"] or row["error"] or "",
                f"{row['duration'] * 1e3:.1f} ms",
                _short(row["outputs"]) + (f"  truth {row['truth']}" if "truth" in row else ""),
            )
            for row in found
        ),
        empty="no such calls in the archive",
    )


@app.command()
def export(
    name: Model,
    to: Annotated[
        Path, typer.Option("--to", metavar="FILE", help="FILE.parquet, FILE.ndjson or FILE.npz.")
    ],
    since: Since = "",
    until: Until = "",
    version: VersionOption = None,
    tenant: Tenant = None,
    failed: Failed = None,
    disagreeing: Disagreeing = False,
    labelled: Annotated[
        bool, typer.Option("--labelled", help="Those whose truth is known.")
    ] = False,
    archive: Place = None,
) -> None:
    """Write calls to a file: a training set, or one to replay.

    An .npz holds `in.NAME` and `out.NAME`, the rows of all calls of the first one's signature one
    after the other, and `truth.NAME` where the truth about each of them is known; --labelled takes
    those alone. The others hold the rows of the archive, with `truth`.
    """
    asked = _query(name, since, until, version, tenant, failed)
    rows = _rows(_open(archive), asked, None, disagreeing)
    if labelled:
        rows = (row for row in rows if "truth" in row)
    match to.suffix:
        case ".parquet":
            count = _to_parquet(rows, to)
        case ".ndjson" | ".jsonl":
            count = _to_ndjson(rows, to)
        case ".npz":
            count = _to_npz(rows, to)
        case _:
            raise typer.BadParameter(f"{to}: none of .parquet, .ndjson, .npz", param_hint="--to")
    errors.print(f"{count:,} calls in {to}", highlight=False)


@app.command("call")
def call_(
    name: Model,
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="The request's id.")],
    archive: Place = None,
    json: Json = False,
    address: Address = None,
) -> None:
    """Tell one call whole: which version answered, with what input, and why that was live."""
    held = _open(archive)
    row = next(held.rows(_reading().Query(name, request_id=request_id)), None)
    if row is None:
        raise NotFound(f"the archive has no call {request_id!r} of {name!r}")
    truth = held.truths(name, since=row["time"]).get(request_id)
    history = _history(name, row["revision"], address)
    if json:
        print_json({**_plain(row), "truth": truth, "history": history})
        return
    by = f"version {row['version']}" if row["version"] else "no version"
    console.print(f"[bold]{row['request_id']}[/bold]  {row['time']:%Y-%m-%d %H:%M:%S.%f} UTC")
    if row["error"] is None:
        console.print(f"answered by {by} ({row['attempt']}), digest {row['digest'] or 'none'}")
    else:
        console.print(f"failed: {row['error']}: {row['message']}")
    console.print(
        f"took {row['duration'] * 1e3:.1f} ms of {row['deadline'] * 1e3:.0f} ms,"
        f" at revision {row['revision']}, route of revision {row['route_revision']}"
    )
    for attempt in row["attempts"]:
        end = "" if attempt["end"] is None else f" to {attempt['end'] * 1e3:.1f}"
        console.print(
            f"  {attempt['kind']}: {attempt['version']} on {attempt['host'] or 'no host'},"
            f" {attempt['start'] * 1e3:.1f}{end} ms, {attempt['outcome']}"
            + (f" ({attempt['error']})" if attempt["error"] else ""),
            highlight=False,
        )
    console.print(f"inputs  {_short(row['inputs'])}", highlight=False, markup=False)
    console.print(f"outputs {_short(row['outputs'])}", highlight=False, markup=False)
    if truth is not None:
        console.print(f"truth   {json_text.dumps(truth)}", highlight=False, markup=False)
    if history:
        console.print("why it was so, the last changes before the call:")
        for line in history:
            console.print(f"  {line}", highlight=False, markup=False)


def _reading() -> Any:
    """What reads the archive: pyarrow comes with it, 45 MB which no other command should take."""
    try:
        from modelyard.archive import reading
    except ImportError as error:
        sys.exit(f"error: the archive needs {error.name}: pip install 'modelyard[archive]'")
    return reading


def _open(place: str | None) -> "Archive":
    archive: Archive = _reading().Archive(
        place or os.environ.get("MODELYARD_ARCHIVE") or str(layout(None).archive)
    )
    return archive


def _query(
    name: str,
    since: str,
    until: str,
    version: int | None,
    tenant: str | None,
    failed: bool | None,
) -> "Query":
    now = datetime.now(UTC)
    query: Query = _reading().Query(
        name,
        since=moment("--since", since, now) if since else None,
        until=moment("--until", until, now) if until else None,
        version=version,
        tenant=tenant,
        failed=failed,
    )
    return query


def _rows(
    archive: "Archive", asked: "Query", columns: list[str] | None, disagreeing: bool
) -> Iterator[dict[str, Any]]:
    """The calls of a query, each with its truth where that is known."""
    truths = archive.truths(asked.model, since=asked.since)
    for row in archive.rows(asked, columns):
        truth = truths.get(row["request_id"])
        if truth is not None:
            row["truth"] = truth
        if disagreeing and not (truth and _disagrees(row["outputs"], truth)):
            continue
        yield row


def _disagrees(outputs: list[dict[str, Any]] | None, truth: dict[str, Any]) -> bool:
    """Whether an output whose truth is known was not that."""
    for output in outputs or ():
        told = truth.get(output["name"])
        said = output["texts"] if output["numbers"] is None else output["numbers"]
        if told is None or said is None:
            continue
        expected = told if isinstance(told, list) else [told]
        if any(t is not None and t != s for t, s in zip(expected, said, strict=False)):
            return True
    return False


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON has it; payloads as hexadecimal."""
    made: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, bytes):
            made[key] = value.hex()
        elif isinstance(value, datetime):
            made[key] = value.isoformat()
        elif key == "metadata":
            made[key] = dict(value or ())
        else:
            made[key] = value
    return made


def _short(tensors: list[dict[str, Any]] | None, longest: int = 160) -> str:
    if tensors is None:
        return "(not kept)"
    held = {}
    for tensor in tensors:
        values = tensor["texts"] if tensor["numbers"] is None else tensor["numbers"]
        shape = "x".join(map(str, tensor["shape"]))
        held[tensor["name"]] = f"{tensor['datatype']} {shape}" if values is None else values[:8]
    text = json_text.dumps(held, ensure_ascii=False)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _history(model: str, revision: int, address: str | None) -> list[str]:
    """The last changes of a model's labels and route up to a revision, the latest first."""
    try:
        with Client(address) as client:
            changes = client.history(model)
    except ModelyardError:
        return []
    told: list[str] = []
    for change in changes:
        if change.revision <= revision and len(told) < 5:
            why = f" ({change.note})" if change.note else ""
            when = change.time.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%S")
            told.append(f"{when} {change.actor}: {described(change)}{why}")
    return told


def _to_ndjson(rows: Iterator[dict[str, Any]], to: Path) -> int:
    count = 0
    with to.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json_text.dumps(_plain(row)) + "\n")
            count += 1
    return count


def _to_parquet(rows: Iterator[dict[str, Any]], to: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from modelyard.archive.schema import CALLS_SCHEMA

    schema = CALLS_SCHEMA.append(pa.field("truth", pa.string()))
    count, held = 0, []
    with pq.ParquetWriter(to, schema, compression="zstd") as writer:
        for row in rows:
            held.append({**row, "truth": json_text.dumps(row["truth"]) if "truth" in row else None})
            count += 1
            if len(held) == _BATCH:
                writer.write_table(pa.Table.from_pylist(held, schema=schema))
                held.clear()
        if held:
            writer.write_table(pa.Table.from_pylist(held, schema=schema))
    return count


def _to_npz(rows: Iterator[dict[str, Any]], to: Path) -> int:
    from modelyard.client.inference import inputs_of, outputs_of
    from modelyard.inference.v2 import open_inference_pb2 as oip

    columns: dict[str, list[Any]] = {}
    truths: dict[str, list[Any]] = {}
    count = 0
    for row in rows:
        if row["request"] is None or row["response"] is None or row["redacted"]:
            continue
        made: dict[str, Any] = {}
        inputs = inputs_of(oip.ModelInferRequest.FromString(row["request"]))
        made |= {f"in.{name}": array for name, array in inputs.items()}
        outputs = outputs_of(oip.ModelInferResponse.FromString(row["response"]))
        made |= {f"out.{name}": array for name, array in outputs.items()}
        if columns and made.keys() != columns.keys():
            continue  # Another signature.
        for name, array in made.items():
            columns.setdefault(name, []).append(np.atleast_1d(array))
        for name, truth in row.get("truth", {}).items():
            truths.setdefault(f"truth.{name}", []).append(np.atleast_1d(np.asarray(truth)))
        count += 1
    columns |= {name: told for name, told in truths.items() if len(told) == count}
    try:
        arrays = {name: _joined(parts) for name, parts in columns.items()}
    except ValueError as error:
        raise InvalidArgument(f"--to {to}: the calls have different shapes: {error}") from None
    np.savez(to, allow_pickle=False, **arrays)
    return count


def _joined(parts: list[Any]) -> Any:
    joined = np.concatenate(parts)
    # BYTES come as objects, which an .npz that is safe to read does not hold.
    return joined.astype("S") if joined.dtype == object else joined
