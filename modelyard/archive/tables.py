"""Events of the log as tables of the archive. Pure.

Column by column, for all that a file takes in: row by row it takes several times as long, and calls
that are served beside feel it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray
from ptars import HandlerPool, PtarsConfig

from modelyard.archive.schema import ATTEMPT, CALLS_SCHEMA, FEEDBACK_SCHEMA
from modelyard.archive.tensors import Side, tensors
from modelyard.errors import InvalidName
from modelyard.events.streams import Numbered, decoded
from modelyard.events.v1 import event_pb2 as pb
from modelyard.names import VersionName

# On the wire the value of a map's entry may be left out.
_CONFIG = PtarsConfig(timestamp_unit="us", map_value_nullable=True)
_EVENTS = HandlerPool([pb.DESCRIPTOR], _CONFIG).get_for_message(pb.Event.DESCRIPTOR)
_OUTCOMES = {
    number: name.removeprefix("OUTCOME_").lower() for name, number in pb.Attempt.Outcome.items()
}
# The two of a call.
PAYLOADS = ("request", "response")

_DAY = 86_400 * 1_000_000
_EPOCH = pa.scalar(0, CALLS_SCHEMA.field("time").type)
_NANOSECONDS = 1e9


def columns_of(events: Sequence[Numbered]) -> pa.RecordBatch:
    """Events as columns: the fields of `modelyard.events.v1.Event`.

    Raises:
        ValueError: One of them is no event.
    """
    batch = _EVENTS.list_to_record_batch([event.data for event in events])
    ids = pa.array([event.id for event in events], pa.string())
    return batch.set_column(batch.schema.get_field_index("id"), "id", ids)


def is_event(event: Numbered) -> bool:
    """Whether `columns_of` reads it."""
    try:
        columns_of([event])
    except ValueError:
        return False
    return True


def feedback_of(events: Sequence[Numbered], columns: pa.RecordBatch) -> list[pb.Event]:
    """The truths among events, of which `columns_of` has made columns."""
    rows = pc.indices_nonzero(columns["feedback"].is_valid())
    return decoded(events[row] for row in rows.to_pylist())


def calls_of(events: pa.RecordBatch) -> pa.RecordBatch:
    """The calls among events.

    Returns:
        Columns `id`; `call`, as `modelyard.events.v1.Call`; `request` and `response`, the payloads
        as far as the log has them.
    """
    if events["call"].null_count:
        events = events.filter(events["call"].is_valid())
    call = events["call"]
    return pa.RecordBatch.from_pydict(
        {
            "id": events["id"],
            "call": call,
            "request": _at(call, "request", "inline"),
            "response": _at(call, "response", "inline"),
        }
    )


def with_payloads(calls: pa.RecordBatch, part: str, found: Mapping[int, bytes]) -> pa.RecordBatch:
    """Calls with some of their requests or responses (`part`) in place, by row."""
    payloads = calls[part].to_pylist()
    for row, payload in found.items():
        payloads[row] = payload
    index = calls.schema.get_field_index(part)
    return calls.set_column(index, part, pa.array(payloads, pa.binary()))


def references(calls: pa.RecordBatch, part: str) -> dict[int, str]:
    """By row, where requests or responses (`part`) lie that the log does not have."""
    lie = _at(calls["call"], part, "reference")
    rows = pc.indices_nonzero(lie.is_valid())
    return dict(zip(rows.to_pylist(), lie.drop_null().to_pylist(), strict=True))


def size_of(calls: pa.RecordBatch) -> int:
    """The bytes of all payloads."""
    lengths = (pc.sum(pc.binary_length(calls[part])).as_py() for part in PAYLOADS)
    return sum(length or 0 for length in lengths)


def by_day(calls: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Calls by the day of their coming, in UTC."""
    days = _microseconds(calls["call"].field("time")) // _DAY
    found = np.unique(days)
    for number in found:
        of_day = calls if len(found) == 1 else calls.filter(pa.array(days == number))
        yield _day(int(number)), of_day


def calls_table(held: Sequence[pa.RecordBatch]) -> pa.Table:
    """Calls, as `calls_of` gives them, as rows of `calls`."""
    calls = pa.Table.from_batches(held).combine_chunks()
    ids, call, request, response = (column.chunk(0) for column in calls.columns)
    answer, failure, attempts = call.field("answer"), call.field("failure"), call.field("attempts")
    answered = answer.is_valid()
    failed = pc.invert(answered)
    columns = {
        "event_id": ids,
        "request_id": call.field("request_id"),
        "time": call.field("time").fill_null(_EPOCH),
        "tenant": _or_null(call.field("tenant")),
        "selector": call.field("selector"),
        "deadline": _seconds(call.field("deadline")).fill_null(0.0),
        "duration": _seconds(call.field("duration")).fill_null(0.0),
        "revision": call.field("revision"),
        "route_revision": call.field("route_revision"),
        "schema": _or_null(call.field("schema")),
        "version": _versions(_at(answer, "served_by")),
        "digest": _or_null(_won(attempts)),
        "attempt": _at(answer, "attempt"),
        "host": _or_null(_at(answer, "host")),
        "error": _where(failed, _at(failure, "reason").fill_null("")),
        "message": _where(failed, _at(failure, "message").fill_null("")),
        "metadata": _metadata(call.field("metadata")),
        "attempts": _attempts(attempts),
        "inputs": tensors(request, Side.INPUTS),
        "outputs": tensors(response, Side.OUTPUTS),
        "request": request,
        "response": response,
        "redacted": pc.or_(
            _at(call, "request", "redacted").fill_null(False),
            _at(call, "response", "redacted").fill_null(False),
        ),
    }
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
    """The day when an event was written down, in UTC."""
    return _day(event.time.seconds // 86_400)


@lru_cache(maxsize=64)
def _day(number: int) -> str:
    return (date(1970, 1, 1) + timedelta(number)).isoformat()


def _at(struct: pa.StructArray, *path: str) -> pa.Array:
    """A field within; null wherever something on the way to it is."""
    return pc.struct_field(struct, list(path))


def _where(mask: pa.BooleanArray, values: pa.Array) -> pa.Array:
    return pc.if_else(mask, values, pa.scalar(None, values.type))


def _or_null(texts: pa.StringArray) -> pa.StringArray:
    return _where(pc.not_equal(texts, ""), texts)


def _microseconds(times: pa.TimestampArray) -> NDArray[np.int64]:
    since_1970: NDArray[np.int64] = times.cast(pa.int64()).fill_null(0).to_numpy()
    return since_1970


def _seconds(durations: pa.DurationArray) -> pa.DoubleArray:
    return pc.divide(durations.cast(pa.int64()).cast(pa.float64(), safe=False), _NANOSECONDS)


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


def _won(attempts: pa.ListArray) -> pa.StringArray:
    """The digest of the version whose attempt won, or null."""
    rows, flat = pc.list_parent_indices(attempts), attempts.flatten()
    won = np.flatnonzero(flat.field("outcome").to_numpy() == pb.Attempt.OUTCOME_WON)
    places = np.full(len(attempts), -1)
    places[rows.to_numpy()[won]] = won
    return flat.field("digest").take(pa.array(places, mask=places < 0))


def _attempts(attempts: pa.ListArray) -> pa.ListArray:
    flat = attempts.flatten()
    outcomes = flat.field("outcome").dictionary_encode()
    names = [_OUTCOMES.get(number) for number in outcomes.dictionary.to_pylist()]
    columns = {
        **{name: flat.field(name) for name in ("version", "digest", "kind", "host")},
        "start": _seconds(flat.field("start")).fill_null(0.0),
        "end": _seconds(flat.field("end")),
        "outcome": pa.array(names, pa.string()).take(outcomes.indices),
        "error": _or_null(flat.field("error")),
    }
    struct = pa.StructArray.from_arrays([columns[f.name] for f in ATTEMPT], fields=list(ATTEMPT))
    return pa.ListArray.from_arrays(attempts.offsets, struct)


def _metadata(entries: pa.ListArray) -> pa.MapArray:
    flat = entries.flatten()
    return pa.MapArray.from_arrays(entries.offsets, flat.field("key"), flat.field("text"))
