"""A recorded call as an event of the log. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.recorder.facts import Facts
from modelyard.catalog.convert_route import seconds_to
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
    event.time.FromNanoseconds(int(facts.time * 1e9))
    record = event.call
    record.request_id, record.selector = facts.request_id, facts.selector
    record.time.CopyFrom(event.time)
    if facts.deadline is not None:
        record.deadline.CopyFrom(seconds_to(facts.deadline))
    record.duration.CopyFrom(seconds_to(facts.duration))
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
        record.attempts.add(
            version=version,
            digest=digest,
            kind=kind,
            host=host,
            start=seconds_to(start),
            end=None if end is None else seconds_to(end),
            outcome=_OUTCOMES[outcome],
            error=error,
        )
    if facts.answer is not None:
        served_by, attempt, host = facts.answer
        record.answer.served_by, record.answer.attempt = served_by, attempt
        record.answer.host = host
        record.response.inline, record.response.size = facts.response, len(facts.response)
    elif facts.failure is not None:
        record.failure.reason, record.failure.message = facts.failure
    record.request.inline, record.request.size = facts.request, len(facts.request)
    return event
