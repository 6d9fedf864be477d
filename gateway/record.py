"""A recorded call as an event of the log. Pure."""

import asyncio
from collections.abc import Callable
from functools import lru_cache

from gateway.call import Made
from gateway.plan import Kind
from gateway.tap import Record, Recording
from modelyard.catalog import Catalog, Signature
from modelyard.catalog.convert_route import seconds_to
from modelyard.catalog.schema import schema_of
from modelyard.errors import ModelyardError, NotFound
from modelyard.events.v1 import event_pb2 as pb
from modelyard.metadata import TENANT
from modelyard.names import VersionName

_OUTCOMES = {
    "": pb.Attempt.OUTCOME_UNSPECIFIED,
    "answered": pb.Attempt.OUTCOME_LOST,
    "cancelled": pb.Attempt.OUTCOME_CANCELLED,
    "failed": pb.Attempt.OUTCOME_FAILED,
}

Redact = Callable[[pb.Event], None]

_schema_of = lru_cache(maxsize=4096)(schema_of)


class Recorder:
    """Makes records, as they may be stored.

    Args:
        inline: The largest payload that the log itself takes, in bytes.
        redact: Takes out of an event what must not be stored.
    """

    def __init__(self, inline: int, redact: Redact | None = None) -> None:
        self._inline = inline
        self._redact = redact

    def __call__(self, recording: Recording) -> Record:
        """The record of a call that is over. Raises what `redact` raises."""
        event = event_of(recording)
        if self._redact is not None:
            self._redact(event)
        call = event.call
        small = max(len(call.request.inline), len(call.response.inline)) <= self._inline
        made = event.SerializeToString() if small else event
        return Record(recording.call.model, recording.size, made)


def event_of(recording: Recording) -> pb.Event:
    """The event of a call that is over; it has no id yet."""
    call, catalog = recording.call, recording.catalog
    route = catalog.routes.get(call.model)
    event = pb.Event(model=f"models/{call.model}")
    event.time.FromNanoseconds(int(recording.time * 1e9))
    record = event.call
    record.request_id, record.selector = call.request_id, call.selector
    record.time.CopyFrom(event.time)
    if call.deadline is not None:
        record.deadline.CopyFrom(seconds_to(call.deadline - recording.began))
    record.duration.CopyFrom(seconds_to(recording.ended - recording.began))
    record.revision = catalog.revision
    record.route_revision = 0 if route is None else route.revision
    if call.target is not None and (signature := _signature(catalog, call.target)) is not None:
        record.schema = _schema_of(signature)
    for key, value in call.metadata:
        if isinstance(value, bytes):
            record.metadata.add(key=key, binary=value)
        else:
            record.metadata.add(key=key, text=value)
            if key == TENANT:
                record.tenant = value
    _attempts(record, recording)
    answer = recording.answer
    if answer is not None:
        record.answer.served_by, record.answer.attempt = str(answer.served_by), answer.attempt
        record.answer.host = answer.host
        record.response.inline, record.response.size = answer.payload, len(answer.payload)
    else:
        _failure(record.failure, recording.error)
    record.request.inline, record.request.size = call.payload, len(call.payload)
    return event


def _attempts(record: pb.Call, recording: Recording) -> None:
    answer, began, won = recording.answer, recording.began, False
    for made in recording.call.trail or ():
        attempt = record.attempts.add(
            version=str(made.version),
            digest=_digest(recording.catalog, made.version),
            kind=made.kind,
            host=made.host,
            start=seconds_to(made.began - began),
            outcome=_OUTCOMES[made.outcome],
            error=made.error,
        )
        if made.ended is not None:
            attempt.end.CopyFrom(seconds_to(made.ended - began))
        if not won and answer is not None and _is_answer(made, recording):
            attempt.outcome, won = pb.Attempt.OUTCOME_WON, True
    if answer is not None and answer.attempt is Kind.DEFAULT:
        # No host was asked, so nothing of it is in the trail.
        at = seconds_to(recording.ended - began)
        record.attempts.add(
            version=str(answer.served_by),
            kind=Kind.DEFAULT,
            start=at,
            end=at,
            outcome=pb.Attempt.OUTCOME_WON,
        )


def _is_answer(made: Made, recording: Recording) -> bool:
    answer = recording.answer
    assert answer is not None, "asked for answered calls only"
    return made.outcome == "answered" and (made.version, made.kind, made.host) == (
        answer.served_by,
        answer.attempt,
        answer.host or made.host,
    )


def _failure(failure: pb.Failure, error: BaseException | None) -> None:
    match error:
        case ModelyardError():
            failure.reason, failure.message = error.reason, error.message
        case asyncio.CancelledError():
            failure.reason, failure.message = "CANCELLED", "the caller gave up"
        case _:
            failure.reason, failure.message = "INTERNAL", type(error).__name__


def _digest(catalog: Catalog, name: VersionName) -> str:
    try:
        return catalog.version(name).digest
    except NotFound:
        return ""


def _signature(catalog: Catalog, name: VersionName) -> Signature | None:
    try:
        return catalog.version(name).signature
    except NotFound:
        return None
