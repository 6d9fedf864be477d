"""Writes records to the event log.

A batch that Redis did not acknowledge is written again, with the same numbers, until it does.
Meanwhile what the gateway has recorded waits, and what does not fit is dropped and counted.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from gateway.recorder.queue import WRITE, WRITE_BYTES, Queue, Record
from modelyard.backoff import Backoff
from modelyard.errors import StoreUnavailable
from modelyard.events.calls import Facts, Payload, pack
from modelyard.events.payloads import Payloads
from modelyard.events.v1 import event_pb2
from modelyard.events.writer import Batch, Writer
from modelyard.redaction import Redaction
from modelyard.tasks import end

_log = structlog.get_logger(__name__)

# Records gather for so long, in seconds, unless a write's worth is there sooner: those that the
# gateway told of together are one entry, which costs little more than one of one and wakes Redis
# once.
LINGER = 0.05
_POLL = 0.02
_EXPIRE_EVERY = 300.0
_BACKOFF = Backoff(first=0.05, factor=2.0, limit=2.0)


class Shipper:
    """Carries records to the log.

    Args:
        queue: Where they wait.
        writer: Where they go.
        payloads: Takes those that are larger than `inline`; None to leave such payloads out.
        inline: The largest payload that the log itself takes, in bytes.
        redact: Takes what must not be stored out of events that come one by one.
        patience: How long `close` tries to write what is left, in seconds.
    """

    def __init__(
        self,
        queue: Queue,
        writer: Writer,
        payloads: Payloads | None,
        *,
        inline: int,
        redact: Redaction | None = None,
        patience: float = 5.0,
    ) -> None:
        self._queue = queue
        self._writer = writer
        self._payloads = payloads
        self._inline = inline
        self._redact = redact
        self._patience = patience
        self._writing = asyncio.Lock()
        self._expired_at = 0.0
        self._away = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to write in the background."""
        self._task = asyncio.create_task(self._run(), name="event log")

    async def close(self) -> None:
        """Writes what waits, as far as that goes, and ends."""
        deadline = asyncio.get_running_loop().time() + self._patience
        self._queue.hurry()
        while self._queue and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_POLL)
        # What was taken from the queue and is being written has its turn, too.
        try:
            async with asyncio.timeout_at(deadline):
                async with self._writing:
                    pass
        except TimeoutError:
            _log.warning("the event log does not answer: records are lost")
        if self._task is not None:
            await end(self._task)

    async def write(self, model: str, event: event_pb2.Event) -> str:
        """Writes one event now; gives its id.

        Raises:
            StoreUnavailable: The log does not answer. Whether it has the event is not known.
        """
        if self._away:
            raise StoreUnavailable("the event log does not answer")
        if self._redact is not None:
            self._redact.truths(event)
        async with self._writing:
            batch = self._writer.number(model, [event.SerializeToString()])
            await self._writer.write([batch])
        return batch.ids[0]

    async def _run(self) -> None:
        while True:
            await self._queue.filled()
            await self._queue.enough(LINGER)
            async with self._writing:
                await self._ship(self._queue.take(WRITE, WRITE_BYTES))

    async def _ship(self, records: Sequence[Record]) -> None:
        by_model: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            # Nothing of a small call is large, and nearly all are small.
            if record.facts.size > self._inline:
                try:
                    record = Record(await self._set_aside(record.facts), record.size)
                except Exception as error:
                    # Whatever a store's driver raises must not end the tap.
                    self._drop(record, error)
                    continue
            by_model[record.facts.model].append(record)
        batches, size = [], 0
        for model, held in by_model.items():
            calls, written = self._packed(held)
            if written:
                batches.append(self._writer.number_calls(model, calls, len(written)))
                size += sum(record.size for record in written)
        await self._write(batches)
        self._queue.done(size, written=sum(batch.count for batch in batches))
        await self._expire()

    def _packed(self, records: list[Record]) -> tuple[bytes, list[Record]]:
        """Calls of one model, serialized; and the records of those that could be."""
        try:
            return pack([record.facts for record in records]).SerializeToString(), records
        except (ValueError, TypeError) as error:
            if len(records) == 1:
                self._drop(records[0], error)
                return b"", []
        # One that cannot be packed keeps no others back.
        fit = [record for one in records for record in self._packed([one])[1]]
        return (self._packed(fit)[0] if fit else b""), fit

    def _drop(self, record: Record, error: Exception) -> None:
        self._queue.done(record.size, dropped=1)
        _log.warning("a record is dropped", error=type(error).__name__)

    async def _write(self, batches: Sequence[Batch]) -> None:
        failures = 0
        while True:
            try:
                await self._writer.write(batches)
            except StoreUnavailable as error:
                failures += 1
                if not self._away:
                    _log.warning("the event log is away; calls go on", error=error.message)
                self._away = True
                await asyncio.sleep(_BACKOFF.wait(failures, random.Random()))
                continue
            if self._away:
                _log.info("the event log is back")
            self._away = False
            return

    def _is_large(self, payload: bytes | Payload) -> bool:
        data = payload.inline if isinstance(payload, Payload) else payload
        return data is not None and len(data) > self._inline

    async def _set_aside(self, facts: Facts) -> Facts:
        """Puts payloads that are too large for the log where large ones lie."""
        return facts._replace(
            request=await self._placed(facts.request), response=await self._placed(facts.response)
        )

    async def _placed(self, payload: bytes | Payload) -> bytes | Payload:
        if not self._is_large(payload):
            return payload
        if not isinstance(payload, Payload):
            payload = Payload(payload, len(payload))
        reference = ""
        if self._payloads is not None and payload.inline is not None:
            reference = await self._payloads.put(payload.inline, datetime.now(UTC))
        return payload._replace(inline=None, reference=reference)

    async def _expire(self) -> None:
        now = time.monotonic()
        if self._payloads is None or now - self._expired_at < _EXPIRE_EVERY:
            return
        self._expired_at = now
        try:
            await self._payloads.expire(datetime.now(UTC))
        except StoreUnavailable as error:
            _log.warning("old payloads are kept for now", error=error.message)
