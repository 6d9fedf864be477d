"""Calls and truths of the log as tables of the archive. Pure.

Column by column, for all that a file takes in: row by row it takes several times as long, and calls
that are served beside feel it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray

from modelyard.archive.schema import ATTEMPT, CALLS_SCHEMA, FEEDBACK_SCHEMA
from modelyard.archive.tensors import Side, tensors
from modelyard.errors import InvalidName
from modelyard.events.v1 import event_pb2 as pb
from modelyard.metadata import TENANT
from modelyard.names import VersionName

_OUTCOMES = {
    number: name.removeprefix("OUTCOME_").lower() for name, number in pb.Attempt.Outcome.items()
}
# Found when a file is written, for all its calls at once.
_TENSORS = ("inputs", "outputs")
_HELD = pa.schema([field for field in CALLS_SCHEMA if field.name not in _TENSORS])

_DAY = 86_400 * 1_000_000


def calls_of(calls: pb.Calls, ids: Sequence[str]) -> pa.RecordBatch:
    """Calls as columns: those of `calls` but `inputs` and `outputs`.

    Args:
        calls: As `modelyard.events.calls.parse` gives them, or several of such merged.
        ids: The id of each.
    """
    served_by = _texts(calls.served_by)
    failed = pc.equal(served_by, "")
    metadata, attempts = calls.metadata, calls.attempts
    columns = {
        "event_id": _texts(ids),
        "request_id": _texts(calls.request_id),
        "time": pa.array(np.rint(np.array(calls.time) * 1e6).astype(np.int64)),
        "tenant": _tenants(metadata),
        "selector": _texts(calls.selector),
        "deadline": pa.array(np.nan_to_num(np.array(calls.deadline, np.float64))),
        "duration": pa.array(calls.duration, pa.float64()),
        "revision": pa.array(calls.revision, pa.int64()),
        "route_revision": pa.array(calls.route_revision, pa.int64()),
        "schema": _or_null(_texts(calls.schema)),
        "version": _versions(served_by),
        "digest": _won(attempts),
        "attempt": _or_null(_texts(calls.answer_attempt)),
        "host": _or_null(_texts(calls.answer_host)),
        "error": _where(failed, _texts(calls.failure_reason)),
        "message": _where(failed, _texts(calls.failure_message)),
        "metadata": _metadata(metadata),
        "attempts": _attempts(attempts),
        "request": _here(calls.request),
        "response": _where(pc.invert(failed), _here(calls.response)),
        "redacted": pa.array(
            [a or b for a, b in zip(calls.request.redacted, calls.response.redacted, strict=True)],
            pa.bool_(),
        ),
    }
    arrays = [columns[field.name].cast(field.type) for field in _HELD]
    return pa.RecordBatch.from_arrays(arrays, schema=_HELD)


def size_of(calls: pa.RecordBatch) -> int:
    """The bytes of all payloads."""
    payloads = (calls["request"], calls["response"])
    lengths = (pc.sum(pc.binary_length(column)).as_py() for column in payloads)
    return sum(length or 0 for length in lengths)


def by_day(calls: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Calls by the day of their coming, in UTC."""
    days = calls["time"].cast(pa.int64()).to_numpy() // _DAY
    found = np.unique(days)
    for number in found:
        of_day = calls if len(found) == 1 else calls.filter(pa.array(days == number))
        yield _day(int(number)), of_day


def calls_table(held: Sequence[pa.RecordBatch]) -> pa.Table:
    """Calls, as `calls_of` gives them, as rows of `calls`."""
    calls = pa.Table.from_batches(held, schema=_HELD).combine_chunks()
    columns = dict(zip(calls.column_names, calls.columns, strict=True))
    for name, side, payloads in (
        ("inputs", Side.INPUTS, columns["request"]),
        ("outputs", Side.OUTPUTS, columns["response"]),
    ):
        columns[name] = tensors(payloads.combine_chunks(), side)
    return pa.Table.from_arrays([columns[f.name] for f in CALLS_SCHEMA], schema=CALLS_SCHEMA)


def feedback_table(events: Iterable[pb.Event]) -> pa.Table:
    """Truths as rows of `feedback`: one an output, the truth as JSON."""
    rows = [
        {
            "event_id": event.id,
            "request_id": event.feedback.request_id,
            "time": event.time.seconds * 1_000_000 + event.time.nanos // 1_000,
            "output": output,
            "truth": json.dumps(MessageToDict(value)),
        }
        for event in events
        for output, value in sorted(event.feedback.truths.items())
    ]
    return pa.Table.from_pylist(rows, schema=FEEDBACK_SCHEMA)


def day_of(event: pb.Event) -> str:
    """The day when an event was written down, in UTC; raises OverflowError where it is none."""
    return _day(event.time.seconds // 86_400)


@lru_cache(maxsize=64)
def _day(number: int) -> str:
    return (date(1970, 1, 1) + timedelta(number)).isoformat()


def _texts(values: Iterable[str]) -> pa.StringArray:
    return pa.array(list(values), pa.string())


def _where(mask: pa.BooleanArray, values: pa.Array) -> pa.Array:
    return pc.if_else(mask, values, pa.scalar(None, values.type))


def _or_null(texts: pa.StringArray) -> pa.StringArray:
    return _where(pc.not_equal(texts, ""), texts)


def _here(payloads: pb.Calls.Payloads) -> pa.BinaryArray:
    """The bytes of those that are in the log; null for others."""
    held = zip(payloads.inline, payloads.size, strict=True)
    return pa.array([data if len(data) == size else None for data, size in held], pa.binary())


def _versions(served_by: pa.StringArray) -> pa.Int64Array:
    """The version that each name names; null where it names none, as a constant's does not."""
    names = served_by.dictionary_encode()
    numbers = [_version(name) for name in names.dictionary.to_pylist()]
    return pa.array(numbers, pa.int64()).take(names.indices)


def _version(name: str) -> int | None:
    try:
        return VersionName.parse(name).number
    except InvalidName:
        return None


def _rows(counts: Iterable[int]) -> NDArray[np.int64]:
    """The call of each metadata entry, or attempt."""
    held = np.array(counts, np.int64)
    return np.repeat(np.arange(len(held)), held)


def _offsets(counts: Iterable[int]) -> pa.Int32Array:
    """Where the metadata or attempts of each call begin, and the last ones end."""
    return pa.array(np.cumsum([0, *counts], dtype=np.int32))


def _won(attempts: pb.Calls.Attempts) -> pa.StringArray:
    """The digest of the version whose attempt won, or null."""
    won = np.flatnonzero(np.array(attempts.outcome, np.int64) == pb.Attempt.OUTCOME_WON)
    places = np.full(len(attempts.count), -1)
    places[_rows(attempts.count)[won]] = won
    digests = _or_null(_texts(attempts.digest))
    return digests.take(pa.array(places, mask=places < 0))


def _attempts(attempts: pb.Calls.Attempts) -> pa.ListArray:
    end = np.array(attempts.end, np.float64)
    columns = {
        **{name: _texts(getattr(attempts, name)) for name in ("version", "digest", "kind", "host")},
        "start": pa.array(attempts.start, pa.float64()),
        "end": pa.array(end, mask=np.isnan(end)),
        "outcome": pa.array([_OUTCOMES.get(number) for number in attempts.outcome], pa.string()),
        "error": _or_null(_texts(attempts.error)),
    }
    struct = pa.StructArray.from_arrays([columns[f.name] for f in ATTEMPT], fields=list(ATTEMPT))
    return pa.ListArray.from_arrays(_offsets(attempts.count), struct)


def _metadata(metadata: pb.Calls.Metadata) -> pa.MapArray:
    held: list[tuple[str, Any]] = [
        (key, None if key.endswith("-bin") else text)
        for key, text in zip(metadata.key, metadata.text, strict=True)
    ]
    keys, texts = _texts(key for key, _ in held), pa.array([text for _, text in held], pa.string())
    return pa.MapArray.from_arrays(_offsets(metadata.count), keys, texts)


def _tenants(metadata: pb.Calls.Metadata) -> pa.StringArray:
    found: list[str | None] = [None] * len(metadata.count)
    for row, key, text in zip(_rows(metadata.count), metadata.key, metadata.text, strict=True):
        if key == TENANT:
            found[row] = text or None
    return pa.array(found, pa.string())
