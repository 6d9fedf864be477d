"""The protocol's methods of one version, bytes in and bytes out, for fronts other than gRPC's."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError, Message

from modelyard.errors import InvalidArgument
from modelyard.inference.v2 import open_inference_pb2 as pb
from services.inference.host import description
from services.inference.host.service import ModelService

Bytes: TypeAlias = "bytes | bytearray"
# Answers a serialized request with a serialized response, given the target and the seconds left.
Handler: TypeAlias = Callable[[Bytes, "str | None", "float | None"], Awaitable[bytes]]


def methods(service: ModelService) -> Mapping[str, Handler]:
    """Every method that is asked once and answered once, by its bare name."""

    async def infer(payload: Bytes, target: str | None, left: float | None) -> bytes:
        request = _parse(pb.ModelInferRequest, payload)
        # A call may wait long for its run; its bytes are in the message now.
        del payload
        response = await service.infer(request, target, left)
        return response.SerializeToString()

    def question(kind: type[Message], answer: Callable[[Any, str | None], Message]) -> Handler:
        async def ask(payload: Bytes, target: str | None, left: float | None) -> bytes:
            return answer(_parse(kind, payload), target).SerializeToString()

        return ask

    return {
        "ModelInfer": infer,
        "ServerLive": question(pb.ServerLiveRequest, lambda r, t: pb.ServerLiveResponse(live=True)),
        "ServerReady": question(pb.ServerReadyRequest, lambda r, t: service.ready(r)),
        "ServerMetadata": question(pb.ServerMetadataRequest, lambda r, t: description.server()),
        "ModelReady": question(pb.ModelReadyRequest, service.model_ready),
        "ModelMetadata": question(pb.ModelMetadataRequest, service.metadata),
        "ModelConfig": question(pb.ModelConfigRequest, service.config),
        "ModelStatistics": question(pb.ModelStatisticsRequest, service.statistics),
        "RepositoryIndex": question(pb.RepositoryIndexRequest, lambda r, t: service.index(r)),
    }


def _parse(kind: Any, payload: Bytes) -> Any:
    try:
        return kind.FromString(payload)
    except DecodeError:
        raise InvalidArgument(f"the request is no {kind.__name__}") from None
