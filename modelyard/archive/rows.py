"""Rows of the archive as events again. Pure."""

from typing import Any

from modelyard.events.v1 import event_pb2 as pb
from modelyard.names import ModelName, VersionName


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
