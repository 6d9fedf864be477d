"""Where the event log lies in Redis: one stream a model, so that a Cluster spreads them.

An entry holds the events of one write, in one field: a hundred events cost Redis, and both its
clients, little more than one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from google.protobuf.message import DecodeError

from modelyard.events.calls import Facts, parse, unpack
from modelyard.events.event import event_of
from modelyard.events.v1 import event_pb2

# The models that have a stream.
MODELS = "modelyard:events"
_FIELD = b"events"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream. It holds calls or other events.

    Attributes:
        position: Its id; greater than those before it.
        writer: Who wrote what it holds.
        first: The number of the first of that.
        count: How many there are.
        events: Events, serialized, or whatever else someone wrote; or
        calls: Calls, as serialized `Calls`, or whatever else someone wrote.
        spoilt: The bytes of what is no entry.
    """

    position: str
    writer: str = ""
    first: int = 0
    count: int = 0
    events: tuple[bytes, ...] = ()
    calls: bytes = b""
    spoilt: tuple[bytes, ...] = ()

    def id_of(self, place: int) -> str:
        """The id of the event at a place, from 0 on."""
        return make_id(self.writer, self.first + place)


def stream_key(model: str) -> str:
    """The stream of a model's events; the braces keep what belongs to it in one slot."""
    return f"{{modelyard:events:{model}}}"


def fields_of(entry: event_pb2.Entry) -> dict[bytes, bytes]:
    """An entry as Redis takes it."""
    return {_FIELD: entry.SerializeToString()}


def entry_of(position: str, fields: Mapping[bytes, bytes]) -> Entry:
    """An entry as Redis gives it; one without fields was cut off before it was read."""
    if not fields:
        return Entry(position)
    try:
        entry = event_pb2.Entry.FromString(fields[_FIELD])
    except (KeyError, DecodeError):
        return Entry(position, spoilt=tuple(fields.values()))
    events, count = tuple(entry.events), entry.count if entry.calls else len(entry.events)
    numbered = entry.writer and entry.first >= 1
    if not numbered or (entry.calls and (events or not _may_be(entry.calls, count))):
        return Entry(position, spoilt=tuple(fields.values()))
    return Entry(position, entry.writer, entry.first, count, events, entry.calls)


def _may_be(calls: bytes, count: int) -> bool:
    """Whether so many calls can be in so few bytes: the time of each takes eight."""
    return 0 <= 8 * count <= len(calls)


def make_id(writer: str, number: int) -> str:
    """The id of an event."""
    return f"{writer}-{number}"


def decoded(entry: Entry, places: range) -> list[event_pb2.Event]:
    """Some of an entry's events, each with its id; those that are none are passed over."""
    found: list[event_pb2.Event] = []
    for place, event in zip(places, _events(entry, places), strict=False):
        if event is not None:
            event.id = entry.id_of(place)
            found.append(event)
    return found


def _events(entry: Entry, places: range) -> Iterator[event_pb2.Event | None]:
    if not entry.calls:
        yield from (_event(entry.events[place]) for place in places)
        return
    try:
        calls = unpack(parse(entry.calls, entry.count))
    except ValueError:
        return
    yield from map(_event_of, islice(calls, places.start, places.stop))


def _event_of(facts: Facts) -> event_pb2.Event | None:
    try:
        return event_of(facts)
    except (ValueError, OverflowError):
        # Seconds that no duration holds.
        return None


def _event(data: bytes) -> event_pb2.Event | None:
    try:
        return event_pb2.Event.FromString(data)
    except DecodeError:
        return None
