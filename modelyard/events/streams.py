"""Where the event log lies in Redis: one stream a model, so that a Cluster spreads them.

An entry holds the events of one write, in one field: a hundred events cost Redis, and both its
clients, little more than one.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError

from modelyard.events.v1 import event_pb2

# The models that have a stream.
MODELS = "modelyard:events"
_FIELD = b"events"


class Numbered(NamedTuple):
    """An event as it lies in the log.

    Attributes:
        id: Its id.
        data: It, serialized; or anything else that someone wrote.
    """

    id: str
    data: bytes


def stream_key(model: str) -> str:
    """The stream of a model's events; the braces keep what belongs to it in one slot."""
    return f"{{modelyard:events:{model}}}"


def fields_of(entry: event_pb2.Entry) -> dict[bytes, bytes]:
    """An entry as Redis takes it."""
    return {_FIELD: entry.SerializeToString()}


def entry_of(fields: Mapping[bytes, bytes]) -> event_pb2.Entry:
    """An entry as Redis gives it.

    Raises:
        ValueError: It is none.
    """
    try:
        entry = event_pb2.Entry.FromString(fields[_FIELD])
    except (KeyError, DecodeError) as error:
        raise ValueError("no entry of the event log") from error
    if not entry.writer or entry.first < 1:
        raise ValueError("an entry of the event log that nobody numbered")
    return entry


def make_id(writer: str, number: int) -> str:
    """The id of an event."""
    return f"{writer}-{number}"


def decoded(events: Iterable[Numbered]) -> list[event_pb2.Event]:
    """Events, each with its id; those that are none are passed over."""
    found: list[event_pb2.Event] = []
    for number, data in events:
        try:
            event = event_pb2.Event.FromString(data)
        except DecodeError:
            continue
        event.id = number
        found.append(event)
    return found
