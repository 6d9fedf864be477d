"""The grpc.aio front: carries inference calls in as bytes, and their answers out."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from gateway import envelope
from gateway.fronts.calls import call_of
from gateway.fronts.metadata import forwarded, provenance
from gateway.fronts.streams import answers
from gateway.stack import Service
from modelyard.errors import ModelyardError
from modelyard.metadata import REQUEST_ID

_SERVICE = "/inference.GRPCInferenceService/"

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
            head = envelope.read(payload)
            remaining = context.time_remaining()
            call = call_of(head, payload, remaining, metadata, request_id, self._clock())
            answer = await self._service(call)
        except ModelyardError:
            context.set_trailing_metadata(((REQUEST_ID, request_id),))
            raise
        context.set_trailing_metadata(provenance(answer, request_id))
        return answer.payload

    async def _stream(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        received = tuple(context.invocation_metadata() or ())
        remaining, clock = context.time_remaining, self._clock
        # Closed with the stream, not when the collector comes by.
        async with aclosing(answers(self._service, requests, received, remaining, clock)) as stream:
            async for answer in stream:
                yield answer
