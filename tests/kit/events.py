"""Events as the tap writes them, without a gateway; and those that a yard has written."""

from datetime import UTC, datetime, timedelta

import numpy as np

from modelyard.client.codec import datatype_of, encode
from modelyard.events.calls import pack
from modelyard.events.event import facts_of
from modelyard.events.progress import Progress
from modelyard.events.reader import Reader, fresh
from modelyard.events.streams import decoded
from modelyard.events.v1 import event_pb2
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.redis_client import connect

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)


def message(kind, tensors, arrays, raw, model="m", version=""):
    made = kind(model_name=model, model_version=version)
    for name, array in arrays.items():
        array = np.asarray(array)
        getattr(made, tensors).add(name=name, datatype=datatype_of(array), shape=array.shape)
        getattr(made, raw).append(encode(array))
    return made.SerializeToString()


def request(**inputs):
    return message(oip.ModelInferRequest, "inputs", inputs, "raw_input_contents")


def response(version=1, **outputs):
    return message(
        oip.ModelInferResponse, "outputs", outputs, "raw_output_contents", version=str(version)
    )


def call(
    number=0,
    *,
    model="m",
    version=1,
    inputs=None,
    outputs=None,
    metadata=(),
    time=None,
    error="",
    seconds=0.002,
):
    """An answered call, or a failed one where an error is given."""
    event = event_pb2.Event(model=f"models/{model}")
    event.time.FromDatetime(time or T0 + timedelta(seconds=number))
    made = event.call
    made.request_id, made.revision, made.route_revision = f"r-{number}", 7, 5
    made.time.CopyFrom(event.time)
    made.deadline.FromTimedelta(timedelta(seconds=1))
    made.duration.FromTimedelta(timedelta(seconds=seconds))
    for key, text in metadata:
        made.metadata.add(key=key, text=text)
    inputs = inputs if inputs is not None else {"x": np.float32([[number, 1.0]])}
    made.request.inline = request(**inputs)
    made.request.size = len(made.request.inline)
    attempt = made.attempts.add(
        version=f"models/{model}/versions/{version}", digest="sha256:ab", kind="primary", host="h"
    )
    attempt.end.FromTimedelta(timedelta(seconds=seconds))
    if error:
        made.failure.reason, made.failure.message = error, f"it was {error}"
        attempt.outcome, attempt.error = event_pb2.Attempt.OUTCOME_FAILED, error
        return event
    attempt.outcome = event_pb2.Attempt.OUTCOME_WON
    made.answer.served_by = f"models/{model}/versions/{version}"
    made.answer.attempt, made.answer.host = "primary", "h"
    outputs = outputs if outputs is not None else {"y": np.float32([number * 2.0])}
    made.response.inline = response(version, **outputs)
    made.response.size = len(made.response.inline)
    return event


def feedback(number, model="m", **truths):
    """The truth about a call."""
    from google.protobuf.json_format import ParseDict

    event = event_pb2.Event(model=f"models/{model}")
    event.time.FromDatetime(T0 + timedelta(hours=1, seconds=number))
    event.feedback.request_id = f"r-{number}"
    for name, truth in truths.items():
        ParseDict(truth, event.feedback.truths[name])
    return event


def batch(writer, *events, model="m"):
    """Events of one kind as a gateway's recorder writes them: calls, or truths."""
    if events[0].HasField("call"):
        calls = pack([facts_of(event) for event in events])
        return writer.number_calls(model, calls.SerializeToString(), len(events))
    return writer.number(model, [event.SerializeToString() for event in events])


async def logged(yard, group, model="m"):
    """The events of a model that a yard's log holds, each once; a group reads them once."""
    redis = connect(f"unix://{yard.layout.events_socket}")
    reader, progress = Reader(redis, group, model), Progress()
    found = []
    while entries := await reader.read(100):
        for entry in entries:
            found += decoded(entry, fresh(progress, entry))
    await redis.aclose()
    return found
