"""Reads windows of the archive, for back-tests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from google.protobuf.json_format import ParseDict

from modelyard.archive.reading import Archive, Query
from modelyard.archive.rows import event_of
from modelyard.events.v1 import event_pb2
from services.shadow.plan import Window

_BATCH = 32
# What a replay needs of a row.
_COLUMNS = [
    *("event_id", "request_id", "time", "tenant", "selector", "deadline", "duration", "version"),
    *("attempt", "error", "message", "metadata", "request", "response", "redacted"),
]


def windows(
    url: str,
) -> Callable[[str, Window, int], AsyncIterator[Sequence[event_pb2.Event]]]:
    """Gives the events of a window of an archive, without the first so many.

    Truths come after the calls: a back-test knows all that is known by now.
    """
    archive = Archive(url)

    async def events(
        model: str, window: Window, skip: int
    ) -> AsyncIterator[Sequence[event_pb2.Event]]:
        found = _events(archive, model, window)
        while True:
            batch = await asyncio.to_thread(_take, found, _BATCH)
            if not batch:
                return
            kept = batch[min(skip, len(batch)) :]
            skip -= len(batch) - len(kept)
            if kept:
                yield kept

    return events


def _events(archive: Archive, model: str, window: Window) -> Iterator[event_pb2.Event]:
    query = Query(model, since=window.start, until=window.end)
    asked: set[str] = set()
    for row in archive.rows(query, _COLUMNS):
        asked.add(row["request_id"])
        yield event_of(model, row)
    for request_id, truths in archive.truths(model, since=window.start).items():
        if request_id in asked:
            event = event_pb2.Event(model=f"models/{model}")
            event.feedback.request_id = request_id
            for output, truth in truths.items():
                ParseDict(truth, event.feedback.truths[output])
            yield event


def _take(events: Iterator[event_pb2.Event], count: int) -> list[event_pb2.Event]:
    taken: list[event_pb2.Event] = []
    for event in events:
        taken.append(event)
        if len(taken) == count:
            break
    return taken
