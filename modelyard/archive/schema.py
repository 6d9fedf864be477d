"""The tables of the archive. docs/archive.md tells their users what each column means.

A partition is `<table>/model=<model>/date=<date>/`; its files are plain Parquet, so whatever reads
Parquet reads them. A file is named by the last entry of the log that its write took in; one that
several were merged into is named `upto-` and the last of those.
"""

from collections.abc import Iterable

import pyarrow as pa

CALLS, FEEDBACK = "calls", "feedback"
MERGED, SUFFIX = "upto-", ".parquet"
# Where the progress of each model is told: `_progress/model=<model>/<the last entry taken in>`.
PROGRESS = "_progress"

_TIME = pa.timestamp("us", tz="UTC")

TENSOR = pa.struct(
    [
        ("name", pa.string()),
        ("datatype", pa.string()),
        ("shape", pa.list_(pa.int64())),
        # One of the two, by the datatype.
        ("numbers", pa.list_(pa.float64())),
        ("texts", pa.list_(pa.string())),
    ]
)
ATTEMPT = pa.struct(
    [
        ("version", pa.string()),
        ("digest", pa.string()),
        ("kind", pa.string()),
        ("host", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("outcome", pa.string()),
        ("error", pa.string()),
    ]
)
CALLS_SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("request_id", pa.string()),
        ("time", _TIME),
        ("tenant", pa.string()),
        ("selector", pa.string()),
        ("deadline", pa.float64()),
        ("duration", pa.float64()),
        ("revision", pa.int64()),
        ("route_revision", pa.int64()),
        ("schema", pa.string()),
        ("version", pa.int64()),
        ("digest", pa.string()),
        ("attempt", pa.string()),
        ("host", pa.string()),
        ("error", pa.string()),
        ("message", pa.string()),
        ("metadata", pa.map_(pa.string(), pa.string())),
        ("attempts", pa.list_(ATTEMPT)),
        ("inputs", pa.list_(TENSOR)),
        ("outputs", pa.list_(TENSOR)),
        ("request", pa.binary()),
        ("response", pa.binary()),
        ("redacted", pa.bool_()),
    ]
)
FEEDBACK_SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("request_id", pa.string()),
        ("time", _TIME),
        ("output", pa.string()),
        ("truth", pa.string()),
    ]
)
SCHEMAS = {CALLS: CALLS_SCHEMA, FEEDBACK: FEEDBACK_SCHEMA}
# The columns of Parquet whose values recur; to look for such in payloads and ids only takes time.
RECURRING = (
    *("tenant", "selector", "schema", "digest", "attempt", "host", "error", "message"),
    "metadata.key_value.key",
    *(f"attempts.list.element.{f.name}" for f in ATTEMPT if f.type == pa.string()),
    *(
        f"{side}.list.element.{name}"
        for side in ("inputs", "outputs")
        for name in ("name", "datatype")
    ),
    "output",
)


def file_id(position: str) -> str:
    """A position of the log as a name that sorts as positions do."""
    milliseconds, _, number = position.partition("-")
    return f"{int(milliseconds):016d}-{int(number or 0):010d}"


def stem(name: str) -> str:
    """Of a file's name: the last entry that it holds."""
    return name.removesuffix(SUFFIX).removeprefix(MERGED)


def standing(names: Iterable[str], last: str = "~") -> list[str]:
    """The files of a partition that count.

    Not those that were merged into another one, nor those of a write that has not ended.

    Args:
        names: Of all files.
        last: The name of the model's newest progress.
    """
    ordered = sorted(name for name in names if name.endswith(SUFFIX) and stem(name) <= last)
    merged = [name for name in ordered if name.startswith(MERGED)]
    if not merged:
        return ordered
    last = merged[-1]
    return [last, *(n for n in ordered if not n.startswith(MERGED) and n > last[len(MERGED) :])]
