"""`WorkerService`: what one of several gateway processes tells the others and its parent."""

from collections.abc import Callable
from typing import TypeAlias

import grpc
from google.protobuf.message import Message

from gateway.control import CatchUp
from gateway.figures import told
from gateway.servicer import GatewayServicer
from modelyard.errors import DeadlineExceeded
from modelyard.gateway.v1 import worker_service_pb2 as pb
from modelyard.gateway.v1 import worker_service_pb2_grpc as pb_grpc

Context: TypeAlias = grpc.aio.ServicerContext[Message, Message]

# Of a wait whose asker gives no deadline, in seconds.
_PATIENCE = 10.0


class WorkerServicer(pb_grpc.WorkerServiceServicer):
    """Tells of this process alone.

    Args:
        gateway: Has the figures.
        metrics: Gives the metrics in Prometheus' text form.
        catch_up: Waits for this process's catalogue.
    """

    def __init__(
        self, gateway: GatewayServicer, metrics: Callable[[], bytes], catch_up: CatchUp
    ) -> None:
        self._gateway = gateway
        self._metrics = metrics
        self._catch_up = catch_up

    async def GetFigures(
        self, request: pb.GetFiguresRequest, context: Context
    ) -> pb.GetFiguresResponse:
        """The figures."""
        return told(self._gateway.figures(request.model))

    async def GetMetrics(
        self, request: pb.GetMetricsRequest, context: Context
    ) -> pb.GetMetricsResponse:
        """The metrics."""
        return pb.GetMetricsResponse(process=self._gateway.process, text=self._metrics())

    async def AwaitRevision(
        self, request: pb.AwaitRevisionRequest, context: Context
    ) -> pb.AwaitRevisionResponse:
        """Returns at the revision."""
        remaining = context.time_remaining()
        timeout = _PATIENCE if remaining is None else remaining
        if not await self._catch_up(request.revision, timeout):
            raise DeadlineExceeded(f"revision {request.revision} was not heard of in time")
        return pb.AwaitRevisionResponse()
