"""The gRPC front of a host."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import grpc

from modelyard.errors import ModelyardError, Unimplemented
from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.inference.v2 import open_inference_pb2_grpc as pb_grpc
from modelyard.metadata import TARGET
from services.inference.host import description
from services.inference.host.service import ModelService

_log = logging.getLogger(__name__)

_STRICT = "triton_grpc_error"
# Requests of one stream that are under way at once.
_STREAM_WINDOW = 64

Context = grpc.aio.ServicerContext[Any, Any]


class HostServicer(pb_grpc.GRPCInferenceServiceServicer):
    """Carries calls over gRPC to the service."""

    def __init__(self, service: ModelService) -> None:
        self._service = service

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """One inference."""
        return await self._service.infer(
            request, _metadata(context, TARGET), context.time_remaining()
        )

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Inferences over one stream, run side by side, answered in the order they came.

        An error is an answer of its own, unless the caller sent `triton_grpc_error: true`:
        then it ends the stream with its status.
        """
        strict = _metadata(context, _STRICT) == "true"
        target = _metadata(context, TARGET)
        answers: asyncio.Queue[asyncio.Task[pb.ModelStreamInferResponse] | None] = asyncio.Queue(
            _STREAM_WINDOW
        )

        async def read() -> None:
            try:
                async for request in request_iterator:
                    answer = self._stream_answer(request, target, context.time_remaining(), strict)
                    await answers.put(asyncio.ensure_future(answer))
            finally:
                await answers.put(None)

        reader = asyncio.ensure_future(read())
        current: asyncio.Task[pb.ModelStreamInferResponse] | None = None
        try:
            while (current := await answers.get()) is not None:
                yield await current
            await reader
        finally:
            reader.cancel()
            left = [current] if current is not None else []
            while not answers.empty():
                if (task := answers.get_nowait()) is not None:
                    left.append(task)
            for task in left:
                task.cancel()
            await asyncio.gather(reader, *left, return_exceptions=True)

    async def _stream_answer(
        self,
        request: pb.ModelInferRequest,
        target: str | None,
        remaining: float | None,
        strict: bool,
    ) -> pb.ModelStreamInferResponse:
        try:
            response = await self._service.infer(request, target, remaining)
        except ModelyardError as error:
            if strict:
                raise
            text = error.message
        except Exception:  # as the interceptor does for a unary call: a fixed text, and an id
            if strict:
                raise
            identity = uuid4().hex[:12]
            _log.exception("inference failed, id %s", identity)
            text = f"internal error, id {identity}"
        else:
            if request.parameters and "triton_enable_empty_final_response" in request.parameters:
                response.parameters["triton_final_response"].bool_param = True
            return pb.ModelStreamInferResponse(infer_response=response)
        return pb.ModelStreamInferResponse(
            error_message=text, infer_response=pb.ModelInferResponse(id=request.id)
        )

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        """True: the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        """True until the host drains."""
        return self._service.ready(request)

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """True for the version served, until the host drains."""
        return self._service.model_ready(request, _metadata(context, TARGET))

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """The server's name, version and extensions."""
        return description.server()

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """The inputs and outputs."""
        return self._service.metadata(request, _metadata(context, TARGET))

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        """The configuration, as perf_analyzer and Triton's clients read it."""
        return self._service.config(request, _metadata(context, TARGET))

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Counts and times since the host began."""
        return self._service.statistics(request, _metadata(context, TARGET))

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """The one version."""
        return self._service.index(request)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Not here: a host serves one version for life."""
        raise Unimplemented("a host serves one version; load through the gateway")

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Not here: a host serves one version for life."""
        raise Unimplemented("a host serves one version; unload through the gateway")


def _metadata(context: Context, key: str) -> str | None:
    for name, value in context.invocation_metadata() or ():
        if name == key:
            return value if isinstance(value, str) else value.decode()
    return None
