"""Where the event log lies in Redis: one stream a model, so that a Cluster spreads them.

An entry holds the events of one write, in one field: a hundred events cost Redis, and both its
clients, little more than one.
"""

from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError

from modelyard.events.v1 import event_pb2

# The models that have a stream.
MODELS = "modelyard:events"
_FIELD = b"events"


def stream_key(model: str) -> str:
    """The stream of a model's events; the braces keep what belongs to it in one slot."""
    return f"{{modelyard:events:{model}}}"


def entry_of(events: Sequence[bytes]) -> dict[bytes, bytes]:
    """The fields of an entry that holds these serialized events."""
    return {_FIELD: event_pb2.Entry(events=events).SerializeToString()}


def events_of(fields: Mapping[bytes, bytes]) -> Sequence[bytes]:
    """The serialized events of an entry, in the order of their writing.

    Raises:
        ValueError: They are no entry's.
    """
    try:
        return event_pb2.Entry.FromString(fields[_FIELD]).events
    except (KeyError, DecodeError) as error:
        raise ValueError("no entry of the event log") from error


def make_id(writer: str, number: int) -> str:
    """The id of an event."""
    return f"{writer}-{number}"


def number_of(event: event_pb2.Event) -> tuple[str, int]:
    """Who wrote an event, and the how-manieth of theirs it is; raises ValueError for neither."""
    writer, _, number = event.id.rpartition("-")
    if not writer:
        raise ValueError(f"event id {event.id!r} is not WRITER-NUMBER")
    return writer, int(number)
