"""A recorded call as an event of the log. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.recorder.facts import Facts
from modelyard.events.v1 import event_pb2 as pb
from modelyard.metadata import TENANT

_OUTCOMES = {
    "": pb.Attempt.OUTCOME_UNSPECIFIED,
    "won": pb.Attempt.OUTCOME_WON,
    "lost": pb.Attempt.OUTCOME_LOST,
    "cancelled": pb.Attempt.OUTCOME_CANCELLED,
    "failed": pb.Attempt.OUTCOME_FAILED,
}

Redact = Callable[[pb.Event], None]


@dataclass(frozen=True, slots=True)
class Record:
    """What is to be written of a call.

    Attributes:
        model: The model's name.
        size: The bytes of its payloads.
        event: It, without an id: serialized; or not yet, where a payload is to be put aside first.
    """

    model: str
    size: int
    event: bytes | pb.Event


class Recorder:
    """Makes records, as they may be stored.

    Args:
        inline: The largest payload that the log itself takes, in bytes.
        redact: Takes out of an event what must not be stored.
    """

    def __init__(self, inline: int, redact: Redact | None = None) -> None:
        self._inline = inline
        self._redact = redact

    def __call__(self, facts: Facts) -> Record:
        """The record of a call that is over. Raises what `redact` raises."""
        event = event_of(facts)
        if self._redact is not None:
            self._redact(event)
        call = event.call
        small = max(len(call.request.inline), len(call.response.inline)) <= self._inline
        return Record(facts.model, facts.size, event.SerializeToString() if small else event)


def event_of(facts: Facts) -> pb.Event:
    """The event of a call that is over; it has no id yet."""
    event = pb.Event(model=f"models/{facts.model}")
    _put(event.time, facts.time)
    record = event.call
    record.request_id, record.selector = facts.request_id, facts.selector
    _put(record.time, facts.time)
    if facts.deadline is not None:
        _put(record.deadline, facts.deadline)
    _put(record.duration, facts.duration)
    record.revision, record.route_revision = facts.revision, facts.route_revision
    record.schema = facts.schema
    for key, value in facts.metadata:
        if isinstance(value, bytes):
            record.metadata.add(key=key, binary=value)
        else:
            record.metadata.add(key=key, text=value)
            if key == TENANT:
                record.tenant = value
    for version, digest, kind, host, start, end, outcome, error in facts.attempts:
        attempt = record.attempts.add()
        attempt.version, attempt.digest = version, digest
        attempt.kind, attempt.host = kind, host
        _put(attempt.start, start)
        if end is not None:
            _put(attempt.end, end)
        attempt.outcome, attempt.error = _OUTCOMES[outcome], error
    if facts.answer is not None:
        answer = record.answer
        answer.served_by, answer.attempt, answer.host = facts.answer
        _fill(record.response, facts.response)
    elif facts.failure is not None:
        record.failure.reason, record.failure.message = facts.failure
    _fill(record.request, facts.request)
    return event


def _fill(payload: pb.Payload, data: bytes) -> None:
    payload.inline, payload.size = data, len(data)


def _put(message: Duration | Timestamp, seconds: float) -> None:
    """Seconds, to protobuf; at most a nanosecond is lost."""
    # Field by field, as all here: to make a message and to have it copied takes longer.
    message.seconds, message.nanos = divmod(round(seconds * 1e9), 1_000_000_000)
