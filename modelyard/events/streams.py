"""Where the event log lies in Redis: one stream a model, so that a Cluster spreads them.

An entry holds the events of one write, as fields `0`, `1`, ...: a hundred events in one entry cost
Redis, and both its clients, little more than one.
"""

from collections.abc import Mapping, Sequence

from modelyard.events.v1 import event_pb2

# The models that have a stream.
MODELS = "modelyard:events"


def stream_key(model: str) -> str:
    """The stream of a model's events; the braces keep what belongs to it in one slot."""
    return f"{{modelyard:events:{model}}}"


def entry_of(events: Sequence[bytes]) -> dict[bytes, bytes]:
    """The fields of an entry that holds these serialized events."""
    return {b"%d" % index: event for index, event in enumerate(events)}


def events_of(entry: Mapping[bytes, bytes]) -> list[bytes]:
    """The serialized events of an entry, in the order of their writing."""
    return [entry[b"%d" % index] for index in range(len(entry))]


def make_id(writer: str, number: int) -> str:
    """The id of an event."""
    return f"{writer}-{number}"


def number_of(event: event_pb2.Event) -> tuple[str, int]:
    """Who wrote an event, and the how-manieth of theirs it is; raises ValueError for neither."""
    writer, _, number = event.id.rpartition("-")
    if not writer:
        raise ValueError(f"event id {event.id!r} is not WRITER-NUMBER")
    return writer, int(number)
