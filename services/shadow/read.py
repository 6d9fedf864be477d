"""Reads what a replay needs from an event of the log."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from modelyard.client.inference import inputs_of, outputs_of
from modelyard.errors import BlobNotFound, InvalidTensor
from modelyard.events.payloads import Payloads
from modelyard.events.v1 import event_pb2
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.names import VersionName
from services.shadow.losses import Truth
from services.shadow.observation import Arrays

# A live call without a deadline of its own has had one from its route; this is for none at all.
_DEADLINE = 30.0


@dataclass(frozen=True, slots=True)
class Request:
    """A request of the log.

    Attributes:
        id: The request's id.
        time: When it arrived.
        metadata: Texts that its caller sent.
        payload: The serialized request.
        inputs: By name.
        response: The serialized answer.
        outputs: By name.
        served_by: The number of the version that answered; 0 for a constant of the route.
        seconds: How long the call took.
        deadline: How long it could have taken, in seconds.
    """

    id: str
    time: datetime
    metadata: dict[str, str]
    payload: bytes
    inputs: Arrays
    response: bytes
    outputs: Arrays
    served_by: int
    seconds: float
    deadline: float


async def request_of(event: event_pb2.Event, payloads: Payloads | None) -> Request | None:
    """The request of an event; None where it failed live, or holds nothing that can be replayed.

    Raises:
        StoreUnavailable: The payloads are away.
    """
    call = event.call
    if not call.HasField("answer") or call.request.redacted or call.response.redacted:
        # What was taken out can be neither asked nor compared.
        return None
    payload = await _bytes(call.request, payloads)
    response = await _bytes(call.response, payloads)
    if payload is None or response is None:
        return None
    try:
        inputs = inputs_of(oip.ModelInferRequest.FromString(payload))
        outputs = outputs_of(oip.ModelInferResponse.FromString(response))
    except (DecodeError, InvalidTensor):
        return None
    served_by = 0
    if "/versions/" in call.answer.served_by:
        served_by = VersionName.parse(call.answer.served_by).number
    return Request(
        call.request_id,
        call.time.ToDatetime(UTC),
        {entry.key: entry.text for entry in call.metadata if entry.HasField("text")},
        payload,
        inputs,
        response,
        outputs,
        served_by,
        call.duration.ToTimedelta().total_seconds(),
        call.deadline.ToTimedelta().total_seconds() or _DEADLINE,
    )


def truths_of(event: event_pb2.Event) -> dict[str, list[Truth]]:
    """The truths of a feedback, by output: one a row."""
    found: dict[str, list[Truth]] = {}
    for name, value in event.feedback.truths.items():
        held: Any = MessageToDict(value)
        found[name] = held if isinstance(held, list) else [held]
    return found


async def _bytes(payload: event_pb2.Payload, payloads: Payloads | None) -> bytes | None:
    match payload.WhichOneof("place"):
        case "inline":
            return payload.inline
        case "reference" if payloads is not None:
            try:
                return await payloads.get(payload)
            except BlobNotFound:
                return None  # Too old, and gone.
    return None
