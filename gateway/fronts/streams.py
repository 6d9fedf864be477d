"""`ModelStreamInfer`: the requests of one stream, computed side by side and answered in order.

Whichever front carries the stream; nothing here knows gRPC's objects.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from gateway import envelope
from gateway.call import Call, Metadata
from gateway.fronts.calls import call_of
from gateway.fronts.metadata import forwarded
from gateway.sequences import Sequence
from gateway.stack import Service
from modelyard.errors import ModelyardError

# Requests of one stream that are computed at a time; the next waits in the transport.
STREAM_WINDOW = 32
# A client that sends this header wants a failed request to end the stream with its status.
_TRITON_ERRORS = "triton_grpc_error"


async def answers(
    service: Service,
    requests: AsyncIterator[bytes],
    received: Metadata,
    remaining: Callable[[], float | None],
    clock: Callable[[], float],
) -> AsyncGenerator[bytes, None]:
    """The serialized answers of a stream.

    Requests of one sequence are computed one after the other: each finds its place, and its
    state, where the one before it left them.

    Args:
        service: The stack.
        requests: What the caller sends; an error that it raises ends the stream.
        received: The stream's metadata.
        remaining: Seconds that the caller gives the stream from now; None for no deadline.
        clock: Seconds, monotonic; the clock of every deadline.

    Raises:
        ModelyardError: What ended the stream: of the requests, or of a failed one where the
            caller wants it so.
    """
    ends_on_error = (_TRITON_ERRORS, "true") in received
    window: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(STREAM_WINDOW)

    async def answer(call: Call, before: asyncio.Task[bytes] | None) -> bytes:
        if before is not None:
            await asyncio.wait((before,))
        try:
            return envelope.stream_answer((await service(call)).payload)
        except ModelyardError as error:
            return refuse(error, call.payload)

    def refuse(error: ModelyardError, payload: bytes) -> bytes:
        if ends_on_error:
            raise error
        return envelope.stream_error(error.message, _id_of(payload))

    async def refused(error: ModelyardError, payload: bytes) -> bytes:
        return refuse(error, payload)

    async def failed(error: Exception) -> bytes:
        raise error

    async def read() -> None:
        try:
            await read_all()
        except Exception as error:
            # After the answers to what came before it. Whatever it is: a stream whose reader is
            # gone would wait for ever.
            await window.put(asyncio.create_task(failed(error)))
        else:
            await window.put(None)

    async def read_all() -> None:
        latest: dict[int | str, asyncio.Task[bytes]] = {}
        async for payload in requests:
            metadata, request_id = forwarded(received)
            try:
                head = envelope.read(payload)
                call = call_of(head, payload, remaining(), metadata, request_id, clock())
            except ModelyardError as error:
                await window.put(asyncio.create_task(refused(error, payload)))
                continue
            sequence = call.sequence
            before = latest.get(sequence.id) if sequence else None
            task = asyncio.create_task(answer(call, before))
            if sequence is not None:
                _note(latest, sequence, task)
            await window.put(task)

    reader = asyncio.create_task(read())
    under_way: asyncio.Task[bytes] | None = None
    try:
        while (under_way := await window.get()) is not None:
            yield await under_way
    finally:
        reader.cancel()
        if under_way is not None:
            under_way.cancel()
        while not window.empty():
            left = window.get_nowait()
            if left is not None:
                left.cancel()


def _note(
    latest: dict[int | str, asyncio.Task[bytes]], sequence: Sequence, task: asyncio.Task[bytes]
) -> None:
    """Notes what the next call of a sequence has to wait for, for as long as there is such."""
    if sequence.end:
        latest.pop(sequence.id, None)
        return
    latest[sequence.id] = task

    def over(_: object) -> None:
        # Many sequences never end: what has been computed is waited for no more.
        if latest.get(sequence.id) is task:
            del latest[sequence.id]

    task.add_done_callback(over)


def _id_of(payload: bytes) -> str:
    """The id of a request that may be malformed."""
    try:
        return envelope.read(payload).id
    except ModelyardError:
        return ""
