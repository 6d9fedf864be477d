"""`python -m gateway.recorder FD`: makes records of calls and writes them, until the socket closes.

Started by a gateway, which holds the socket's other end. A gateway that is gone, killed or not, has
handed over what it could: that is written before this process ends.
"""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import structlog
import uvloop
import yaml

from gateway.recorder import frames
from gateway.recorder.queue import Done, Queue, Record
from gateway.recorder.shipping import Shipper
from gateway.settings import GatewaySettings
from modelyard import background, logs
from modelyard.errors import InvalidArgument, ModelyardError
from modelyard.events.calls import Facts
from modelyard.events.payloads import Payloads
from modelyard.events.v1 import event_pb2
from modelyard.events.writer import Bounds, Writer
from modelyard.redaction import Redaction, parse
from modelyard.redis_client import connect
from modelyard.tasks import end

_log = structlog.get_logger(__name__)


class _Process:
    """One recorder.

    Args:
        settings: The gateway's.
        redact: What no log may keep.
        writer: To the gateway.
    """

    def __init__(
        self, settings: GatewaySettings, redact: Redaction | None, writer: asyncio.StreamWriter
    ) -> None:
        self._settings = settings
        self._redact = redact
        self._writer = writer
        self._queue = Queue()
        self._events: set[asyncio.Task[None]] = set()

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Records what comes until no more does."""
        telling = asyncio.create_task(self._tell(), name="news")
        async with _shipping(self._settings, self._queue, self._redact) as shipper:
            self._send(frames.READY)
            # From now on: a gateway that starts waits for what comes before.
            background.enter()
            while (frame := await frames.read(reader)) is not None and frame[0] != frames.END:
                kind, value = frame
                if kind == frames.CALLS:
                    await self._record(value)
                elif kind == frames.EVENT:
                    task = asyncio.create_task(self._write(shipper, *value))
                    self._events.add(task)
                    task.add_done_callback(self._events.discard)
            await asyncio.gather(*self._events)
        await end(telling)
        self._news(self._queue.rest())
        self._writer.close()

    async def _record(self, calls: list[Facts]) -> None:
        records = [Record(facts, facts.size) for facts in calls]
        if self._redact is not None:
            records = list(self._allowed(records, self._redact))
        self._queue.put(records)
        # What came meanwhile has its turn: a frame that is there already is read without one.
        await asyncio.sleep(0)

    def _allowed(self, records: Iterable[Record], redact: Redaction) -> Iterator[Record]:
        for facts, size in records:
            try:
                yield Record(redact(facts), size)
            except Exception as error:
                # Whatever cannot be made fit to be stored must not be stored.
                self._queue.done(size, dropped=1)
                _log.warning("a call is not recorded", error=type(error).__name__)

    async def _write(self, shipper: Shipper, number: int, model: str, event: bytes) -> None:
        try:
            told = await shipper.write(model, event_pb2.Event.FromString(event)), ""
        except ModelyardError as error:
            told = "", error.message
        self._send(frames.WROTE, (number, *told))

    async def _tell(self) -> None:
        while True:
            self._news(await self._queue.news())

    def _news(self, done: Done) -> None:
        self._send(frames.DONE, (done.written, done.dropped, done.size))

    def _send(self, kind: str, value: Any = None) -> None:
        if not self._writer.is_closing():
            self._writer.writelines(frames.pack(kind, value))


def _redaction(settings: GatewaySettings) -> Redaction | None:
    """What no log may keep; raises InvalidArgument for rules that are none."""
    if settings.redaction is None:
        return None
    try:
        rules = parse(yaml.safe_load(settings.redaction.read_text(encoding="utf-8")))
        key = settings.redaction_key.read_bytes().strip() if settings.redaction_key else b""
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidArgument(f"redaction: {error}", field="redaction") from None
    return Redaction(rules, key)


@asynccontextmanager
async def _shipping(
    settings: GatewaySettings, queue: Queue, redact: Redaction | None
) -> AsyncIterator[Shipper]:
    """Writes what is recorded, until it ends; raises InvalidArgument for a URL that is none."""
    redis = connect(settings.events)
    bounds = Bounds(settings.events_length, settings.events_bytes, settings.events_age)
    payloads = None
    if settings.payloads:
        payloads = Payloads(settings.payloads, timedelta(seconds=settings.events_age))
    shipper = Shipper(
        queue,
        Writer(redis, bounds),
        payloads,
        inline=settings.events_inline,
        redact=redact,
    )
    shipper.start()
    try:
        yield shipper
    finally:
        await shipper.close()
        await redis.aclose()


async def main(link: socket.socket) -> None:
    """Records by what the gateway says first."""
    reader, writer = await asyncio.open_unix_connection(sock=link)
    first = await frames.read(reader)
    if first is None:
        return
    settings = GatewaySettings.model_validate_json(first[1])
    logs.configure("gateway", level=settings.log_level)
    # What is loaded now lives as long as the process: the collector need not look at it.
    gc.collect()
    gc.freeze()
    try:
        await _Process(settings, _redaction(settings), writer).run(reader)
    except InvalidArgument as error:
        writer.writelines(
            frames.pack(frames.REFUSED, (error.message, error.metadata.get("field", "")))
        )
        writer.close()
    await writer.wait_closed()


if __name__ == "__main__":
    # It ends when its gateway has: a terminal's Ctrl-C is for all of them, and comes before that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(socket.socket(fileno=int(sys.argv[1]))))
