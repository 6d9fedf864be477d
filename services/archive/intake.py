"""Entries of the log, until columns are made of their calls."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
from google.protobuf.message import DecodeError

from modelyard.archive import tables
from modelyard.errors import BlobNotFound
from modelyard.events.calls import pack, parse
from modelyard.events.event import facts_of
from modelyard.events.payloads import Payloads
from modelyard.events.streams import Entry
from modelyard.events.v1 import event_pb2 as pb
from services.archive.partitions import Partitions

# So many calls, or bytes, are made columns of together, which costs little more than a hundred do.
# Not more: until then nobody knows of payloads that lie elsewhere, and they are fetched at once.
_CALLS, _BYTES = 2048, 8 << 20


@dataclass(slots=True)
class Counts:
    """What became of a model's events, since this process began.

    Attributes:
        rows: Written to the archive.
        written: Bytes of files.
        spoilt: No events; set aside.
        missing: Payloads that were gone before they could be archived.
        waiting: Rows that are not written yet.
    """

    rows: int = 0
    written: int = 0
    spoilt: int = 0
    missing: int = 0
    waiting: int = 0


class _Part(NamedTuple):
    """Calls that came together.

    Attributes:
        position: Of their entry.
        packed: They, as serialized `Calls`.
        ids: Theirs.
        copies: How many of them, from the first one on, were taken in before.
    """

    position: str
    packed: bytes
    ids: list[str]
    copies: int = 0


class Intake:
    """Takes entries in; what is none is set aside.

    Args:
        partitions: Where that goes.
        payloads: Large payloads; None where there are none.
        counts: What became of events.
    """

    def __init__(self, partitions: Partitions, payloads: Payloads | None, counts: Counts) -> None:
        self._partitions = partitions
        self._payloads = payloads
        self._counts = counts
        self._parts: list[_Part] = []

    def __len__(self) -> int:
        """How many calls `calls` will give, at most."""
        return sum(len(part.ids) for part in self._parts)

    def clear(self) -> None:
        """Forgets what was taken in."""
        self._parts.clear()

    @property
    def is_enough(self) -> bool:
        """Whether it is time for `calls`."""
        return len(self) >= _CALLS or sum(len(part.packed) for part in self._parts) >= _BYTES

    async def take(self, entry: Entry, places: range) -> list[pb.Event]:
        """Takes in what is at some places of an entry; gives the truths among it."""
        await self._set_aside(entry.position, entry.spoilt, len(entry.spoilt))
        if not places:
            return []
        if entry.calls:
            ids = [entry.id_of(place) for place in range(entry.count)]
            self._parts.append(_Part(entry.position, entry.calls, ids, places.start))
            return []
        truths: list[pb.Event] = []
        spoilt: list[bytes] = []
        for place in places:
            data = entry.events[place]
            try:
                event = pb.Event.FromString(data)
                event.id = entry.id_of(place)
                if event.HasField("call"):
                    # Of a gateway of an earlier version.
                    packed = pack([facts_of(event)]).SerializeToString()
                    parse(packed, 1)
                    self._parts.append(_Part(entry.position, packed, [event.id]))
                elif event.HasField("feedback"):
                    tables.day_of(event)
                    truths.append(event)
            except (DecodeError, ValueError, OverflowError):
                # No event, or of no time that there is.
                spoilt.append(data)
        await self._set_aside(entry.position, spoilt, len(spoilt))
        return truths

    async def calls(self) -> pa.RecordBatch:
        """The calls that were taken in since the last time, as `tables.calls_of` gives them.

        Raises:
            StoreUnavailable: The payloads that lie elsewhere are away.
        """
        parts, self._parts = self._parts, []
        calls = await self._calls_of(parts)
        for part in tables.PAYLOADS:
            calls = await self._fetched(calls, part)
        return calls

    async def _calls_of(self, parts: Sequence[_Part]) -> pa.RecordBatch:
        """The calls of parts, but for copies; parts that are none are set aside."""
        try:
            calls = tables.calls_of([p.packed for p in parts], [p.ids for p in parts])
        except ValueError:
            # Nobody says which.
            return await self._one_by_one(parts)
        if any(part.copies for part in parts):
            new = [place >= part.copies for part in parts for place in range(len(part.ids))]
            calls = calls.filter(pa.array(new, pa.bool_()))
        return calls

    async def _one_by_one(self, parts: Sequence[_Part]) -> pa.RecordBatch:
        found = [tables.calls_of([], [])]
        for part in parts:
            try:
                found.append(tables.calls_of([part.packed], [part.ids])[part.copies :])
            except ValueError:
                await self._set_aside(part.position, [part.packed], len(part.ids) - part.copies)
        return pa.concat_batches(found)

    async def _set_aside(self, position: str, spoilt: Sequence[bytes], count: int) -> None:
        if spoilt:
            self._counts.spoilt += count
            await asyncio.to_thread(self._partitions.set_aside, position, spoilt)

    async def _fetched(self, calls: pa.RecordBatch, part: str) -> pa.RecordBatch:
        """Calls with the payloads that lie elsewhere, as far as they still do."""
        payloads = self._payloads
        if payloads is None or not (lie := tables.references(calls, part)):
            return calls
        found: dict[int, bytes] = {}
        for row, reference in lie.items():
            try:
                found[row] = await payloads.get(pb.Payload(reference=reference))
            except BlobNotFound:
                self._counts.missing += 1
        return tables.with_payloads(calls, part, found)
