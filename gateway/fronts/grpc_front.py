"""The grpc.aio front: carries inference calls in as bytes, and their answers out."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import grpc

from gateway import envelope
from gateway.call import Call, Metadata
from gateway.fronts.calls import call_of
from gateway.fronts.metadata import forwarded, provenance
from gateway.sequences import Sequence
from gateway.stack import Service
from modelyard.errors import ModelyardError
from modelyard.metadata import REQUEST_ID

_SERVICE = "/inference.GRPCInferenceService/"
# Requests of one stream that are computed at a time; the next waits in the transport.
STREAM_WINDOW = 32
# A client that sends this header wants a failed request to end the stream with its status.
_TRITON_ERRORS = "triton_grpc_error"

Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class InferenceFront(grpc.GenericRpcHandler):
    """Handles `ModelInfer` and `ModelStreamInfer`; every other method is not found here.

    Args:
        service: The stack.
        clock: Seconds, monotonic; the clock of every deadline.
    """

    def __init__(self, service: Service, clock: Callable[[], float]) -> None:
        self._service = service
        self._clock = clock
        self._handlers: dict[str, Handler] = {
            _SERVICE + "ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer),
            _SERVICE + "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._stream),
        }

    def service(self, details: grpc.HandlerCallDetails) -> "Handler | None":
        """The handler of a method."""
        return self._handlers.get(details.method)

    async def _infer(self, payload: bytes, context: Context) -> bytes:
        metadata, request_id = forwarded(context.invocation_metadata() or ())
        try:
            call = self._call(payload, context.time_remaining(), metadata, request_id)
            answer = await self._service(call)
        except ModelyardError:
            context.set_trailing_metadata(((REQUEST_ID, request_id),))
            raise
        context.set_trailing_metadata(provenance(answer, request_id))
        return answer.payload

    def _call(
        self, payload: bytes, remaining: float | None, metadata: Metadata, request_id: str
    ) -> Call:
        head = envelope.read(payload)
        return call_of(head, payload, remaining, metadata, request_id, self._clock())

    async def _stream(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        """Computes the requests of a stream side by side and answers in their order.

        Those of one sequence are computed one after the other: each finds its place, and its
        state, where the one before it left them.
        """
        received = tuple(context.invocation_metadata() or ())
        ends_on_error = (_TRITON_ERRORS, "true") in received
        window: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(STREAM_WINDOW)

        async def answer(call: Call, before: asyncio.Task[bytes] | None) -> bytes:
            if before is not None:
                await asyncio.wait((before,))
            try:
                return envelope.stream_answer((await self._service(call)).payload)
            except ModelyardError as error:
                return refuse(error, call.payload)

        def refuse(error: ModelyardError, payload: bytes) -> bytes:
            if ends_on_error:
                raise error
            return envelope.stream_error(error.message, _id_of(payload))

        async def refused(error: ModelyardError, payload: bytes) -> bytes:
            return refuse(error, payload)

        async def read() -> None:
            latest: dict[int | str, asyncio.Task[bytes]] = {}
            async for payload in requests:
                metadata, request_id = forwarded(received)
                try:
                    call = self._call(payload, context.time_remaining(), metadata, request_id)
                except ModelyardError as error:
                    await window.put(asyncio.create_task(refused(error, payload)))
                    continue
                sequence = call.sequence
                before = latest.get(sequence.id) if sequence else None
                task = asyncio.create_task(answer(call, before))
                if sequence is not None:
                    _note(latest, sequence, task)
                await window.put(task)
            await window.put(None)

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
