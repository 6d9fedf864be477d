"""Calls of the log, field by field (`modelyard.events.v1.Calls`). Pure.

Calls are written so, many at a time: what it costs to make a message of each, whoever is served on
the same machine feels.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Final, NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from modelyard.events.v1 import event_pb2 as pb

# Version, digest, kind, host, start, end, outcome, error; times in seconds from the call's arrival,
# the end None where it had not come; the outcome a `modelyard.events.v1.Attempt.Outcome`.
Attempt: TypeAlias = tuple[str, str, str, str, float, float | None, int, str]
# The version that answered, the kind of its attempt, its host.
Answered: TypeAlias = tuple[str, str, str]
# Reason, message.
Failed: TypeAlias = tuple[str, str]

_Columns: TypeAlias = dict[str, Any]

_NAN: Final = float("nan")
# The times that a call may have: from 1970 up to 9999, in Unix seconds.
FIRST: Final = 0.0
LAST: Final = 253_402_300_799.0
# What stands for a column of which there is nothing; None, and first, for such as are always whole:
# what someone else counts is believed when there is as much.
_CALLS: Final[_Columns] = {
    "time": None,
    "request_id": "",
    "selector": "",
    "deadline": 0.0,
    "duration": 0.0,
    "revision": 0,
    "route_revision": 0,
    "schema": "",
    "served_by": "",
    "answer_attempt": "",
    "answer_host": "",
    "failure_reason": "",
    "failure_message": "",
}
_METADATA: Final[_Columns] = {"key": None, "text": "", "binary": b""}
_ATTEMPTS: Final[_Columns] = {
    "version": None,
    "digest": "",
    "kind": "",
    "host": "",
    "start": 0.0,
    "end": 0.0,
    "outcome": 0,
    "error": "",
}
_PAYLOADS: Final[_Columns] = {"inline": b"", "size": 0, "reference": "", "redacted": False}


class Payload(NamedTuple):
    """A request or response that is not in the log as it was.

    Attributes:
        inline: Its bytes; None where they are not in the log.
        size: How many bytes it has.
        reference: Where it lies, if it does elsewhere.
        redacted: Whether something was taken out of it.
    """

    inline: bytes | None
    size: int
    reference: str = ""
    redacted: bool = False


class Facts(NamedTuple):
    """A call that is over, as it is told of and recorded.

    Attributes:
        model: The model's name.
        request_id: The call's.
        selector: What the caller asked for: a version number, a label, or nothing.
        time: When it arrived, in Unix seconds.
        deadline: The seconds that it had; None for no deadline.
        duration: The seconds that it took.
        revision: Of the catalogue by which it was routed.
        route_revision: Of its route; 0 for the default route.
        schema: The digest of what the version takes and gives that was asked first.
        metadata: What the caller sent and hosts saw.
        attempts: All of them, in the order of their starts.
        answer: Who answered; None where it failed.
        failure: Of what it failed; None where it was answered.
        request: The serialized request.
        response: The serialized response; nothing where it failed.
    """

    model: str
    request_id: str
    selector: str
    time: float
    deadline: float | None
    duration: float
    revision: int
    route_revision: int
    schema: str
    metadata: tuple[tuple[str, str | bytes], ...]
    attempts: tuple[Attempt, ...]
    answer: Answered | None
    failure: Failed | None
    request: bytes | Payload
    response: bytes | Payload

    @property
    def size(self) -> int:
        """The bytes of its payloads, wherever they lie."""
        return _size(self.request) + _size(self.response)


def _size(payload: bytes | Payload) -> int:
    return payload.size if isinstance(payload, Payload) else len(payload)


def pack(calls: Sequence[Facts]) -> pb.Calls:
    """Calls of one model, at least one, field by field.

    Raises:
        ValueError, TypeError: Of what one of them holds no message can be made.
    """
    (
        (model, *_),
        request_id,
        selector,
        time,
        deadline,
        duration,
        revision,
        route_revision,
        schema,
        metadata,
        attempts,
        answer,
        failure,
        request,
        response,
    ) = zip(*calls, strict=True)
    made = pb.Calls(model=f"models/{model}", request_id=request_id, time=time, duration=duration)
    _fill(made.selector, selector)
    made.deadline.extend(_NAN if held is None else held for held in deadline)
    _fill(made.revision, revision)
    _fill(made.route_revision, route_revision)
    _fill(made.schema, schema)
    if any(metadata):
        keys, values = zip(*chain.from_iterable(metadata), strict=True)
        made.metadata.count.extend(map(len, metadata))
        made.metadata.key.extend(keys)
        _fill(made.metadata.text, ["" if isinstance(v, bytes) else v for v in values])
        _fill(made.metadata.binary, [v if isinstance(v, bytes) else b"" for v in values])
    if any(attempts):
        _attempts(made.attempts, attempts)
    served_by, kinds, hosts = zip(*(held or ("", "", "") for held in answer), strict=True)
    _fill(made.served_by, served_by)
    _fill(made.answer_attempt, kinds)
    _fill(made.answer_host, hosts)
    if any(failure):
        reasons, messages = zip(*(held or ("", "") for held in failure), strict=True)
        made.failure_reason.extend(reasons)
        made.failure_message.extend(messages)
    _payloads(made.request, request)
    _payloads(made.response, response)
    return made


def _fill(column: Any, values: Sequence[Any]) -> None:
    """A column whose values are nothing but defaults is left out."""
    if any(values):
        column.extend(values)


def _attempts(made: pb.Calls.Attempts, attempts: Sequence[Sequence[Attempt]]) -> None:
    version, digest, kind, host, start, end, outcome, error = zip(
        *chain.from_iterable(attempts), strict=True
    )
    made.count.extend(map(len, attempts))
    made.version.extend(version)
    made.digest.extend(digest)
    made.kind.extend(kind)
    _fill(made.host, host)
    made.start.extend(start)
    made.end.extend(_NAN if held is None else held for held in end)
    made.outcome.extend(outcome)
    _fill(made.error, error)


def _payloads(made: pb.Calls.Payloads, payloads: Sequence[bytes | Payload]) -> None:
    if not any(isinstance(held, Payload) for held in payloads):
        # As nearly always.
        _fill(made.inline, payloads)
        _fill(made.size, list(map(len, payloads)))
        return
    whole = [held if isinstance(held, Payload) else Payload(held, len(held)) for held in payloads]
    inline, sizes, references, redacted = zip(*whole, strict=True)
    _fill(made.inline, [held or b"" for held in inline])
    _fill(made.size, sizes)
    _fill(made.reference, references)
    _fill(made.redacted, redacted)


def parse(data: bytes, count: int) -> pb.Calls:
    """Serialized calls, with every field that was left out filled in.

    Args:
        data: Them.
        count: How many there are.

    Raises:
        ValueError: They are none, or not so many.
    """
    try:
        calls = pb.Calls.FromString(data)
    except DecodeError as error:
        raise ValueError("no calls") from error
    _complete(calls, _CALLS, count)
    if not all(FIRST <= time <= LAST for time in calls.time):
        raise ValueError("time: before 1970, or after 9999")
    for part, columns in ((calls.metadata, _METADATA), (calls.attempts, _ATTEMPTS)):
        _complete(part, {"count": 0}, count)
        if min(part.count, default=0) < 0:
            raise ValueError("count: less than none")
        _complete(part, columns, sum(part.count))
    for payloads in (calls.request, calls.response):
        _complete(payloads, _PAYLOADS, count)
    return calls


def _complete(message: Any, columns: _Columns, count: int) -> None:
    for name, default in columns.items():
        column = getattr(message, name)
        if not column and default is not None:
            column.extend([default] * count)
        elif len(column) != count:
            raise ValueError(f"{name}: {len(column)} values for {count}")


def unpack(calls: pb.Calls) -> Iterator[Facts]:
    """Calls that `parse` gave, one by one."""
    model = calls.model.removeprefix("models/")
    values = (v if k.endswith("-bin") else t for k, t, v in _rows(calls.metadata, _METADATA))
    return map(
        Facts,
        [model] * len(calls.request_id),
        calls.request_id,
        calls.selector,
        calls.time,
        map(_known, calls.deadline),
        calls.duration,
        calls.revision,
        calls.route_revision,
        calls.schema,
        _parted(calls.metadata.count, zip(calls.metadata.key, values, strict=True)),
        _parted(calls.attempts.count, map(_attempt, _rows(calls.attempts, _ATTEMPTS))),
        (a if a[0] else None for a in _rows(calls, ("served_by", "answer_attempt", "answer_host"))),
        (f if f[0] else None for f in _rows(calls, ("failure_reason", "failure_message"))),
        map(_payload, _rows(calls.request, _PAYLOADS)),
        map(_payload, _rows(calls.response, _PAYLOADS)),
    )


def _rows(message: Any, names: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(getattr(message, name) for name in names), strict=True)


def _parted(counts: Iterable[int], values: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """So many of the values together, one count after the other."""
    held = iter(values)
    return (tuple(islice(held, count)) for count in counts)


def _known(number: float) -> float | None:
    return None if number != number else number


def _attempt(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*row[:5], _known(row[5]), *row[6:])


def _payload(row: tuple[Any, ...]) -> bytes | Payload:
    inline, size, reference, redacted = row
    if not (reference or redacted) and len(inline) == size:
        held: bytes = inline
        return held
    return Payload(inline if len(inline) == size else None, size, reference, redacted)
