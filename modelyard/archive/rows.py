"""Events as rows of the archive, and rows as events again. Pure."""

import json
from datetime import UTC, date, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from modelyard.client.codec import Array, datatype_of
from modelyard.client.inference import inputs_of, outputs_of
from modelyard.errors import InvalidTensor
from modelyard.events.v1 import event_pb2 as pb
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.names import ModelName, VersionName

# Elements of a tensor that are written out as numbers or texts; the bytes of larger ones are in
# `request` and `response`, as all are.
MOST_ELEMENTS = 4096


def call_row(event: pb.Event, request: bytes | None, response: bytes | None) -> dict[str, Any]:
    """A call as a row of `calls`.

    Args:
        event: The event.
        request: The serialized request; None where it was not kept.
        response: The serialized answer; None for a call that failed, or where it was not kept.
    """
    call = event.call
    answered = call.HasField("answer")
    by = call.answer.served_by
    version = VersionName.parse(by).number if "/versions/" in by else None
    won = next((a for a in call.attempts if a.outcome == pb.Attempt.OUTCOME_WON), None)
    return {
        "event_id": event.id,
        "request_id": call.request_id,
        "time": call.time.ToDatetime(UTC),
        "tenant": call.tenant or None,
        "selector": call.selector,
        "deadline": _seconds(call.deadline),
        "duration": _seconds(call.duration),
        "revision": call.revision,
        "route_revision": call.route_revision,
        "schema": call.schema or None,
        "version": version,
        "digest": won.digest if won is not None and won.digest else None,
        "attempt": call.answer.attempt if answered else None,
        "host": call.answer.host or None,
        "error": None if answered else call.failure.reason,
        "message": None if answered else call.failure.message,
        "metadata": [(m.key, m.text if m.HasField("text") else None) for m in call.metadata],
        "attempts": [_attempt(attempt) for attempt in call.attempts],
        "inputs": _tensors(request, oip.ModelInferRequest),
        "outputs": _tensors(response, oip.ModelInferResponse),
        "request": request,
        "response": response,
        "redacted": call.request.redacted or call.response.redacted,
    }


def feedback_rows(event: pb.Event) -> list[dict[str, Any]]:
    """A truth as rows of `feedback`: one an output, the truth as JSON."""
    return [
        {
            "event_id": event.id,
            "request_id": event.feedback.request_id,
            "time": event.time.ToDatetime(UTC),
            "output": output,
            "truth": json.dumps(MessageToDict(value)),
        }
        for output, value in sorted(event.feedback.truths.items())
    ]


def event_of(model: str, row: dict[str, Any]) -> pb.Event:
    """A row of `calls` as the event that it was, as far as a replay needs it."""
    event = pb.Event(id=row["event_id"], model=str(ModelName(model)))
    event.time.FromDatetime(row["time"])
    call = event.call
    call.time.CopyFrom(event.time)
    call.request_id, call.selector = row["request_id"], row["selector"] or ""
    call.tenant = row["tenant"] or ""
    for key in ("deadline", "duration"):
        if row[key] is not None:
            getattr(call, key).FromNanoseconds(round(row[key] * 1e9))
    for key, text in row["metadata"] or ():
        call.metadata.add(key=key, text=text or "")
    if row["error"] is None:
        call.answer.served_by = str(
            VersionName(model, row["version"]) if row["version"] else ModelName(model)
        )
        call.answer.attempt = row["attempt"] or ""
    else:
        call.failure.reason, call.failure.message = row["error"], row["message"] or ""
    if row["request"] is not None:
        call.request.inline, call.request.size = row["request"], len(row["request"])
    call.request.redacted = row["redacted"]
    if row["response"] is not None:
        call.response.inline, call.response.size = row["response"], len(row["response"])
    return event


def _attempt(attempt: pb.Attempt) -> dict[str, Any]:
    return {
        "version": attempt.version,
        "digest": attempt.digest,
        "kind": attempt.kind,
        "host": attempt.host,
        "start": _seconds(attempt.start),
        "end": _seconds(attempt.end) if attempt.HasField("end") else None,
        "outcome": pb.Attempt.Outcome.Name(attempt.outcome).removeprefix("OUTCOME_").lower(),
        "error": attempt.error or None,
    }


def _tensors(payload: bytes | None, kind: Any) -> list[dict[str, Any]] | None:
    if payload is None:
        return None
    try:
        message = kind.FromString(payload)
        read = inputs_of if kind is oip.ModelInferRequest else outputs_of
        arrays: dict[str, Array] = read(message)
    except (DecodeError, InvalidTensor):
        return None  # The bytes are kept, whatever they are.
    return [_tensor(name, array) for name, array in arrays.items()]


def _tensor(name: str, array: Array) -> dict[str, Any]:
    datatype = datatype_of(array)
    made: dict[str, Any] = {
        "name": name,
        "datatype": datatype,
        "shape": list(array.shape),
        "numbers": None,
        "texts": None,
    }
    if array.size > MOST_ELEMENTS:
        return made
    flat = array.reshape(-1)
    if datatype == "BYTES":
        made["texts"] = [element.decode(errors="replace") for element in flat]
    else:
        # As an array: a float object for each number is what a row would take most of.
        made["numbers"] = flat.astype(np.float64)
    return made


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def day_of(event: pb.Event) -> str:
    """The partition of an event: the day of its call, in UTC."""
    time = event.call.time if event.HasField("call") else event.time
    return _day(time.seconds // 86_400)


@lru_cache(maxsize=64)
def _day(days: int) -> str:
    return (date(1970, 1, 1) + timedelta(days)).isoformat()
