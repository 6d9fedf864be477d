"""The Open Inference Protocol of one version, protobuf in and out."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import grpc

from modelyard.errors import (
    HostGone,
    InvalidArgument,
    InvalidTensor,
    ModelNotFound,
    ModelyardError,
    Unimplemented,
    VersionNotFound,
    VersionNotServing,
)
from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.inference.v2 import open_inference_pb2_grpc as pb_grpc
from modelyard.metadata import TARGET
from modelyard.names import VersionName
from services.inference.host import description
from services.inference.host.engine import Engine
from services.inference.host.tensors import CONTENTS, Array, encode

_log = logging.getLogger(__name__)

_STRICT = "triton_grpc_error"
# Requests of one stream that are under way at once.
_STREAM_WINDOW = 64

Context = grpc.aio.ServicerContext[Any, Any]


class HostServicer(pb_grpc.GRPCInferenceServiceServicer):
    """Answers for one version of one model.

    Attributes:
        draining: Set it, and new inference is refused as HostGone.
    """

    def __init__(self, version: VersionName, engine: Engine) -> None:
        self.draining = False
        self._version = version
        self._number = str(version.number)
        self._target = str(version)
        self._engine = engine

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """One inference."""
        return await self._infer(request, _metadata(context, TARGET), context.time_remaining())

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
            response = await self._infer(request, target, remaining)
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

    async def _infer(
        self, request: pb.ModelInferRequest, target: str | None, remaining: float | None
    ) -> pb.ModelInferResponse:
        began = time.monotonic_ns()
        engine, statistics = self._engine, self._engine.statistics
        try:
            if self.draining:
                raise HostGone("the host ends; try another")
            self._check_target(target, request.model_name, request.model_version)
            deadline = _deadline(began, remaining, request)
            wanted = engine.select([o.name for o in request.outputs])
            feeds, size = self._decode(request)
            decoded = time.monotonic_ns()
            results, queued, ran = await engine.run(feeds, wanted, size, deadline)
            response = pb.ModelInferResponse(
                model_name=self._version.model, model_version=self._number, id=request.id
            )
            for tensor, result in zip(wanted, results, strict=True):
                response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=result.shape)
                response.raw_output_contents.append(encode(result))
        except BaseException as error:  # counted, whatever it is, and raised on
            statistics.failed(time.monotonic_ns() - began, error)
            raise
        statistics.answered(began, decoded, queued, ran, time.monotonic_ns())
        return response

    def _decode(self, request: pb.ModelInferRequest) -> tuple[dict[str, Array], int]:
        """The inputs as arrays, and how many bytes they took (0 for typed contents)."""
        inputs = request.inputs
        raws = request.raw_input_contents
        plan = self._engine.plan(tuple((i.name, i.datatype, tuple(i.shape)) for i in inputs))
        feeds: dict[str, Array] = {}
        size = 0
        if not raws:
            for slot, given in zip(plan, inputs, strict=True):
                field = CONTENTS.get(slot.datatype)
                if field is None:
                    if slot.count:
                        raise InvalidTensor(
                            f"input '{slot.name}' for model '{slot.model}' is {slot.datatype},"
                            " which travels in raw_input_contents only",
                            input=slot.name,
                        )
                    feeds[slot.name] = slot.raw(b"")
                else:
                    feeds[slot.name] = slot.typed(getattr(given.contents, field))
                    size += slot.size
            return feeds, size
        if len(raws) != len(inputs):
            raise InvalidTensor(
                f"expected {len(inputs)} raw input contents but got {len(raws)}"
                f" for model '{self._version.model}'"
            )
        for slot, given, raw in zip(plan, inputs, raws, strict=True):
            if given.HasField("contents"):
                raise InvalidTensor(
                    "contents field must not be specified when using raw_input_contents"
                    f" for '{slot.name}' for model '{slot.model}'",
                    input=slot.name,
                )
            feeds[slot.name] = slot.raw(raw)
            size += len(raw)
        return feeds, size

    def _check_target(self, target: str | None, model: str, version: str) -> None:
        """Raises unless the call is for this version.

        The gateway names its choice in the metadata; the request's own version may then be a
        label, which a host knows nothing about.
        """
        if target is not None:
            if target != self._target:
                raise VersionNotServing(
                    f"this host serves {self._target}, not {target}", version=target
                )
        elif model != self._version.model or (version and version != self._number):
            raise self._unknown(model, version)

    def _unknown(self, model: str, version: str) -> ModelyardError:
        if model != self._version.model:
            return ModelNotFound(f"Request for unknown model: '{model}' is not found", model=model)
        return VersionNotFound(
            f"Request for unknown model: '{model}' version {version} is not found",
            model=model,
            version=version,
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
        return pb.ServerReadyResponse(ready=not self.draining)

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """True for the version served, until the host drains."""
        try:
            self._check_target(_metadata(context, TARGET), request.name, request.version)
        except ModelyardError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self.draining)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """The server's name, version and extensions."""
        return description.server()

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """The inputs and outputs."""
        self._check_target(_metadata(context, TARGET), request.name, request.version)
        return description.metadata(self._version, self._engine.signature)

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        """The configuration, as perf_analyzer and Triton's clients read it."""
        self._check_target(_metadata(context, TARGET), request.name, request.version)
        return description.config(self._version, self._engine.signature)

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Counts and times since the host began."""
        if request.name:
            self._check_target(_metadata(context, TARGET), request.name, request.version)
        return description.statistics(self._version, self._engine.statistics)

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """The one version."""
        return description.index(self._version, ready=not self.draining, only_ready=request.ready)

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


def _deadline(now: int, remaining: float | None, request: pb.ModelInferRequest) -> int | None:
    """When the call's time is over: its own deadline, or its parameter `timeout` if sooner."""
    deadline = None if remaining is None else now + int(remaining * 1e9)
    if request.parameters and "timeout" in request.parameters:
        timeout = request.parameters["timeout"]
        choice = timeout.WhichOneof("parameter_choice")
        if choice not in ("int64_param", "uint64_param"):
            raise InvalidArgument("the parameter 'timeout' is not an integer (microseconds)")
        microseconds = getattr(timeout, choice)
        if microseconds > 0:
            given = now + microseconds * 1000
            deadline = given if deadline is None else min(deadline, given)
    return deadline
