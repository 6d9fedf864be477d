"""Writes events to their models' streams, each numbered, at least once."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from modelyard.errors import StoreUnavailable
from modelyard.events.streams import MODELS, fields_of, make_id, stream_key
from modelyard.events.v1 import event_pb2

# How often what is too old is cut off, in seconds.
_TRIM_EVERY = 5.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of each model's events is kept: whatever is reached first cuts the oldest off.

    Redis cuts whole nodes of its tree, so somewhat more is kept than is said here.

    Attributes:
        length: Events.
        size: Bytes.
        age: Seconds.
    """

    length: int = 1_000_000
    size: int = 512 << 20
    age: float = 24 * 3600.0


@dataclass(slots=True)
class _Stream:
    """What is known of a model's stream: how many it was given, and how large they are."""

    number: int = 0
    events_an_entry: float = 1.0
    bytes_an_entry: float = 1.0
    trimmed_at: float = 0.0
    known: bool = False

    def note(self, events: int, size: int) -> None:
        weight = 0.05 if self.known else 1.0
        self.events_an_entry += weight * (events - self.events_an_entry)
        self.bytes_an_entry += weight * (size - self.bytes_an_entry)

    def entries(self, bounds: Bounds) -> int:
        by_length = bounds.length / max(1.0, self.events_an_entry)
        by_size = bounds.size / max(1.0, self.bytes_an_entry)
        return max(1, int(min(by_length, by_size)))


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one model that have their numbers; the same when it is written again.

    Attributes:
        model: The model's name.
        writer: Whose numbers they are.
        first: The number of the first of them.
        count: How many there are.
        events: They, serialized, without ids; or
        calls: They, as serialized `Calls`.
    """

    model: str
    writer: str
    first: int
    count: int
    events: tuple[bytes, ...] = ()
    calls: bytes = b""

    @property
    def size(self) -> int:
        """The bytes of its events."""
        return len(self.calls) + sum(map(len, self.events))

    @property
    def ids(self) -> list[str]:
        """Of its events."""
        return [make_id(self.writer, self.first + n) for n in range(self.count)]


class Writer:
    """Writes events. One at a time: the order of its writes is the order of its numbers.

    Args:
        redis: A client that answers bytes.
        bounds: How much is kept.
    """

    def __init__(self, redis: Any, bounds: Bounds = Bounds()) -> None:
        self._redis = redis
        self._bounds = bounds
        self._streams: dict[str, _Stream] = {}
        # Nobody else's, not even that of this process's earlier life.
        self.id = os.urandom(8).hex()

    def number(self, model: str, events: Sequence[bytes]) -> Batch:
        """Gives events of a model their numbers: from now on they must be written, and in order.

        Args:
            model: The model's name.
            events: Serialized, without an id.
        """
        first = self._first(model, len(events))
        return Batch(model, self.id, first, len(events), events=tuple(events))

    def number_calls(self, model: str, calls: bytes, count: int) -> Batch:
        """As `number`, for calls: serialized `Calls`, of so many."""
        return Batch(model, self.id, self._first(model, count), count, calls=calls)

    def _first(self, model: str, count: int) -> int:
        stream = self._streams.setdefault(model, _Stream())
        first = stream.number + 1
        stream.number += count
        return first

    async def write(self, batches: Sequence[Batch]) -> None:
        """Writes batches, each as one entry of its model's stream.

        Raises:
            StoreUnavailable: Redis does not answer or does not take them. Whether it did is not
                known: they are to be written again.
        """
        now = time.time()
        pipe = self._redis.pipeline(transaction=False)
        for batch in batches:
            stream, key = self._streams[batch.model], stream_key(batch.model)
            stream.note(batch.count, batch.size)
            if not stream.known:
                pipe.sadd(MODELS, batch.model)
            entry = event_pb2.Entry(
                events=batch.events,
                calls=batch.calls,
                count=batch.count if batch.calls else 0,
                writer=batch.writer,
                first=batch.first,
            )
            kept = stream.entries(self._bounds)
            pipe.xadd(key, fields_of(entry), maxlen=kept, approximate=True)
            if now - stream.trimmed_at > _TRIM_EVERY:
                oldest = max(0, int((now - self._bounds.age) * 1000))
                pipe.xtrim(key, minid=f"{oldest}-0", approximate=True)
        try:
            await pipe.execute()
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"the event log does not answer: {error}") from error
        for batch in batches:
            stream = self._streams[batch.model]
            stream.known = True
            if now - stream.trimmed_at > _TRIM_EVERY:
                stream.trimmed_at = now
