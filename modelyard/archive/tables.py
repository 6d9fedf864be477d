"""Calls and truths of the log as tables of the archive. Pure.

Column by column, for all that a file takes in: row by row it takes several times as long, and calls
that are served beside feel it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray
from ptars import HandlerPool

from modelyard.archive.schema import ATTEMPT, CALLS_SCHEMA, FEEDBACK_SCHEMA
from modelyard.archive.tensors import Side, tensors
from modelyard.errors import InvalidName
from modelyard.events.calls import FIRST, LAST
from modelyard.events.v1 import event_pb2 as pb
from modelyard.metadata import TENANT
from modelyard.names import VersionName

_OUTCOMES = {
    number: name.removeprefix("OUTCOME_").lower() for name, number in pb.Attempt.Outcome.items()
}
_CALLS = HandlerPool([pb.DESCRIPTOR]).get_for_message(pb.Calls.DESCRIPTOR)
# The two of a call.
PAYLOADS = ("request", "response")
# Found when a file is written, for all its calls at once.
_TENSORS = ("inputs", "outputs")
_HELD = pa.schema(
    [
        *(field for field in CALLS_SCHEMA if field.name not in _TENSORS),
        *((f"{part}_reference", pa.string()) for part in PAYLOADS),
    ]
)

_DAY = 86_400 * 1_000_000


def calls_of(packed: Sequence[bytes], ids: Sequence[Sequence[str]]) -> pa.RecordBatch:
    """Calls as columns: those of `calls` but `inputs` and `outputs`, and where payloads lie.

    Args:
        packed: Serialized `modelyard.events.v1.Calls`.
        ids: For each of those, the ids of its calls.

    Raises:
        ValueError: One of them is none, or does not fit together: `modelyard.events.calls.parse`
            tells which.
    """
    batch = _CALLS.list_to_record_batch(list(packed))
    calls = _Fields(batch.to_struct_array(), [len(some) for some in ids])
    metadata, attempts = calls.parted("metadata", "key"), calls.parted("attempts", "version")
    served_by = calls("served_by", "")
    failed = pc.equal(served_by, "")
    requests, responses = calls.part("request"), calls.part("response")
    columns = {
        "event_id": pa.array(list(chain.from_iterable(ids)), pa.string()),
        "request_id": calls("request_id", ""),
        "time": _times(calls("time")),
        "tenant": _tenants(metadata),
        "selector": calls("selector", ""),
        "deadline": _known(calls("deadline", 0.0)).fill_null(0.0),
        "duration": calls("duration", 0.0),
        "revision": calls("revision", 0),
        "route_revision": calls("route_revision", 0),
        "schema": _or_null(calls("schema", "")),
        "version": _versions(served_by),
        "digest": _won(attempts),
        "attempt": _or_null(calls("answer_attempt", "")),
        "host": _or_null(calls("answer_host", "")),
        "error": _where(failed, calls("failure_reason", "")),
        "message": _where(failed, calls("failure_message", "")),
        "metadata": _metadata(metadata),
        "attempts": _attempts(attempts),
        "request": _here(requests),
        "response": _where(pc.invert(failed), _here(responses)),
        "redacted": pc.or_(requests("redacted", False), responses("redacted", False)),
        "request_reference": _or_null(requests("reference", "")),
        "response_reference": _or_null(responses("reference", "")),
    }
    arrays = [columns[field.name].cast(field.type) for field in _HELD]
    return pa.RecordBatch.from_arrays(arrays, schema=_HELD)


def references(calls: pa.RecordBatch, part: str) -> dict[int, str]:
    """By row, where requests or responses (`part`) lie that the log does not have."""
    lie = calls[f"{part}_reference"]
    rows = pc.indices_nonzero(lie.is_valid())
    return dict(zip(rows.to_pylist(), lie.drop_null().to_pylist(), strict=True))


def with_payloads(calls: pa.RecordBatch, part: str, found: Mapping[int, bytes]) -> pa.RecordBatch:
    """Calls with some of their requests or responses (`part`) in place, by row."""
    payloads = calls[part].to_pylist()
    for row, payload in found.items():
        payloads[row] = payload
    index = calls.schema.get_field_index(part)
    return calls.set_column(index, part, pa.array(payloads, pa.binary()))


def size_of(calls: pa.RecordBatch) -> int:
    """The bytes of all payloads."""
    lengths = (pc.sum(pc.binary_length(calls[part])).as_py() for part in PAYLOADS)
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


class _Fields:
    """Repeated fields of several messages, each as one column of all its values.

    Args:
        messages: The messages.
        counts: How many values each message has of a field.
        by_call: How many each call has, where that is not one.

    Attributes:
        by_call: That.
    """

    def __init__(self, messages: pa.StructArray, counts: Any, by_call: Any = ()) -> None:
        self._messages = messages
        self._counts = np.array(counts, np.int64)
        self.by_call = np.array(by_call, np.int64)

    def __call__(self, name: str, default: Any = None) -> pa.Array:
        """A field; one that a message has nothing of is `default` for it.

        Raises:
            ValueError: A message has too many or too few of it, or nothing and there is no default.
        """
        lists = self._messages.field(name)
        lengths, values = np.diff(lists.offsets.to_numpy()), lists.flatten()
        there = lengths == self._counts
        if there.all():
            return values
        if default is None or lengths[~there].any():
            raise ValueError(f"{name}: not one value for each call")
        if not len(values):
            return pa.repeat(pa.scalar(default, values.type), int(self._counts.sum()))
        given = np.repeat(there, self._counts)
        return values.take(pa.array(np.cumsum(given) - 1, mask=~given)).fill_null(default)

    def part(self, name: str) -> "_Fields":
        """The fields of a message within, of which a call has one value each."""
        return _Fields(self._messages.field(name), self._counts)

    def parted(self, name: str, always: str) -> "_Fields":
        """The fields of a message within, of which a call has so many values as `count` says."""
        part = self.part(name)
        by_call = part("count", 0).to_numpy()
        if (by_call < 0).any():
            raise ValueError("count: less than none")
        message = np.repeat(np.arange(len(self._counts)), self._counts)
        sums = np.zeros(len(self._counts), np.int64)
        np.add.at(sums, message, by_call)
        fields = _Fields(self._messages.field(name), sums, by_call)
        # Before any other is filled in: what someone else counts is believed if there is as much.
        fields(always)
        return fields

    @property
    def rows(self) -> NDArray[np.int64]:
        """The call of each value."""
        return np.repeat(np.arange(len(self.by_call)), self.by_call)

    @property
    def offsets(self) -> pa.Int32Array:
        """Where the values of each call begin, and the last ones end."""
        return pa.array(np.cumsum([0, *self.by_call], dtype=np.int32))


def _where(mask: pa.BooleanArray, values: pa.Array) -> pa.Array:
    return pc.if_else(mask, values, pa.scalar(None, values.type))


def _or_null(texts: pa.StringArray) -> pa.StringArray:
    return _where(pc.not_equal(texts, ""), texts)


def _known(numbers: pa.DoubleArray) -> pa.DoubleArray:
    return _where(pc.invert(pc.is_nan(numbers)), numbers)


def _times(seconds: pa.DoubleArray) -> pa.Int64Array:
    times = seconds.to_numpy()
    if not ((times >= FIRST) & (times <= LAST)).all():
        raise ValueError("time: before 1970, or after 9999")
    return pa.array(np.rint(times * 1e6).astype(np.int64))


def _here(payloads: _Fields) -> pa.BinaryArray:
    """The bytes of those that are in the log; null for others."""
    inline = payloads("inline", b"")
    return _where(pc.equal(pc.binary_length(inline), payloads("size", 0)), inline)


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


def _won(attempts: _Fields) -> pa.StringArray:
    """The digest of the version whose attempt won, or null."""
    won = np.flatnonzero(attempts("outcome", 0).to_numpy() == pb.Attempt.OUTCOME_WON)
    places = np.full(len(attempts.by_call), -1)
    places[attempts.rows[won]] = won
    return _or_null(attempts("digest", "").take(pa.array(places, mask=places < 0)))


def _attempts(attempts: _Fields) -> pa.ListArray:
    outcomes = attempts("outcome", 0).dictionary_encode()
    names = [_OUTCOMES.get(number) for number in outcomes.dictionary.to_pylist()]
    columns = {
        **{name: attempts(name, "") for name in ("version", "digest", "kind", "host")},
        "start": attempts("start", 0.0),
        "end": _known(attempts("end", 0.0)),
        "outcome": pa.array(names, pa.string()).take(outcomes.indices),
        "error": _or_null(attempts("error", "")),
    }
    struct = pa.StructArray.from_arrays([columns[f.name] for f in ATTEMPT], fields=list(ATTEMPT))
    return pa.ListArray.from_arrays(attempts.offsets, struct)


def _metadata(metadata: _Fields) -> pa.MapArray:
    keys = metadata("key")
    texts = _where(pc.invert(pc.ends_with(keys, "-bin")), metadata("text", ""))
    return pa.MapArray.from_arrays(metadata.offsets, keys, texts)


def _tenants(metadata: _Fields) -> pa.StringArray:
    found = np.flatnonzero(pc.equal(metadata("key"), TENANT).to_numpy(zero_copy_only=False))
    places = np.full(len(metadata.by_call), -1)
    places[metadata.rows[found]] = found
    return _or_null(metadata("text", "").take(pa.array(places, mask=places < 0)))
