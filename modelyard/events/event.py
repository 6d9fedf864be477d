"""A call of the log as an event of its own (`modelyard.events.v1.Event`), and back. Pure."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from modelyard.events.calls import Facts, Payload
from modelyard.events.v1 import event_pb2 as pb
from modelyard.metadata import TENANT


def event_of(facts: Facts) -> pb.Event:
    """The event of a call; it has no id yet."""
    event = pb.Event(model=f"models/{facts.model}")
    _put(event.time, facts.time)
    call = event.call
    call.request_id, call.selector = facts.request_id, facts.selector
    _put(call.time, facts.time)
    if facts.deadline is not None:
        _put(call.deadline, facts.deadline)
    _put(call.duration, facts.duration)
    call.revision, call.route_revision = facts.revision, facts.route_revision
    call.schema = facts.schema
    for key, value in facts.metadata:
        if isinstance(value, bytes):
            call.metadata.add(key=key, binary=value)
        else:
            call.metadata.add(key=key, text=value)
            if key == TENANT:
                call.tenant = value
    for version, digest, kind, host, start, end, outcome, error in facts.attempts:
        attempt = call.attempts.add()
        attempt.version, attempt.digest = version, digest
        attempt.kind, attempt.host = kind, host
        _put(attempt.start, start)
        if end is not None:
            _put(attempt.end, end)
        attempt.outcome, attempt.error = pb.Attempt.Outcome.ValueType(outcome), error
    if facts.answer is not None:
        answer = call.answer
        answer.served_by, answer.attempt, answer.host = facts.answer
        _place(call.response, facts.response)
    elif facts.failure is not None:
        call.failure.reason, call.failure.message = facts.failure
    _place(call.request, facts.request)
    return event


def facts_of(event: pb.Event) -> Facts:
    """The call of an event: what `event_of` makes that event of."""
    call = event.call
    answer, failure = call.answer, call.failure
    return Facts(
        event.model.removeprefix("models/"),
        call.request_id,
        call.selector,
        _seconds(call.time),
        _seconds(call.deadline) if call.HasField("deadline") else None,
        _seconds(call.duration),
        call.revision,
        call.route_revision,
        call.schema,
        tuple((m.key, m.binary if m.HasField("binary") else m.text) for m in call.metadata),
        tuple(
            (
                *(a.version, a.digest, a.kind, a.host, _seconds(a.start)),
                _seconds(a.end) if a.HasField("end") else None,
                *(a.outcome, a.error),
            )
            for a in call.attempts
        ),
        (answer.served_by, answer.attempt, answer.host) if call.HasField("answer") else None,
        (failure.reason, failure.message) if call.HasField("failure") else None,
        _placed(call.request),
        _placed(call.response),
    )


def _place(message: pb.Payload, held: bytes | Payload) -> None:
    if not isinstance(held, Payload):
        message.inline, message.size = held, len(held)
        return
    if held.reference:
        message.reference = held.reference
    elif held.inline is not None:
        message.inline = held.inline
    message.size, message.redacted = held.size, held.redacted


def _placed(message: pb.Payload) -> bytes | Payload:
    place = message.WhichOneof("place")
    if not message.redacted and (place == "inline" or not (place or message.size)):
        return message.inline
    inline = message.inline if place == "inline" else None
    return Payload(inline, message.size, message.reference, message.redacted)


def _put(message: Duration | Timestamp, seconds: float) -> None:
    """Seconds, to protobuf; at most a nanosecond is lost."""
    # Field by field, as all here: to make a message and to have it copied takes longer.
    message.seconds, message.nanos = divmod(round(seconds * 1e9), 1_000_000_000)


def _seconds(message: Duration | Timestamp) -> float:
    return message.seconds + message.nanos / 1e9
