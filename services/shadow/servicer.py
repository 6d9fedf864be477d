"""`modelyard.shadow.v1`: evaluations, protobuf in and out."""

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from modelyard.metadata import ACTOR
from modelyard.names import ModelName
from modelyard.pages import falling, page_of
from modelyard.shadow.v1 import shadow_service_pb2 as pb
from modelyard.shadow.v1 import shadow_service_pb2_grpc as pb_grpc
from services.shadow.manager import Manager

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
_LONGEST_ACTOR = 1024


class ShadowServicer(pb_grpc.ShadowServiceServicer):
    """Starts, stops and tells of evaluations.

    Args:
        manager: Runs them.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    async def StartEvaluation(
        self, request: pb.StartEvaluationRequest, context: Context
    ) -> pb.StartEvaluationResponse:
        """Starts an evaluation."""
        evaluation = await self._manager.start(
            ModelName.parse(request.model).model,
            list(request.candidates),
            request.baseline,
            request.plan,
            actor=_actor(context),
            note=request.note,
            request_id=request.request_id,
        )
        return pb.StartEvaluationResponse(evaluation=evaluation)

    async def StopEvaluation(
        self, request: pb.StopEvaluationRequest, context: Context
    ) -> pb.StopEvaluationResponse:
        """Stops an evaluation."""
        return pb.StopEvaluationResponse(evaluation=await self._manager.stop(request.name))

    async def GetEvaluation(
        self, request: pb.GetEvaluationRequest, context: Context
    ) -> pb.GetEvaluationResponse:
        """Gives an evaluation."""
        return pb.GetEvaluationResponse(evaluation=self._manager.get(request.name))

    async def ListEvaluations(
        self, request: pb.ListEvaluationsRequest, context: Context
    ) -> pb.ListEvaluationsResponse:
        """Lists evaluations, the latest first."""
        found = self._manager.evaluations
        if request.model:
            prefix = f"models/{ModelName.parse(request.model).model}/"
            found = [evaluation for evaluation in found if evaluation.name.startswith(prefix)]
        keys = [f"{falling(e.start_time.ToNanoseconds() // 1000)} {e.name}" for e in found]
        page, token = page_of(found, keys, request)
        return pb.ListEvaluationsResponse(evaluations=page, next_page_token=token)

    async def GetReport(
        self, request: pb.GetReportRequest, context: Context
    ) -> pb.GetReportResponse:
        """Gives a report."""
        return pb.GetReportResponse(report=await self._manager.report(request.name))

    async def WatchReport(
        self, request: pb.WatchReportRequest, context: Context
    ) -> AsyncIterator[pb.WatchReportResponse]:
        """Gives reports as they change."""
        async for report in self._manager.watch(request.name):
            yield pb.WatchReportResponse(report=report)


def _actor(context: Context) -> str:
    """Who asks, as far as it says so; its address otherwise."""
    for key, value in context.invocation_metadata() or ():
        if key == ACTOR and isinstance(value, str):
            return value[:_LONGEST_ACTOR]
    return context.peer() or ""
