"""Programs for evaluations, and for the truth that comes later."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Value

from modelyard.client.reads import GATEWAY, PAGE, TIMEOUT
from modelyard.client.steps import Method, Program, unary
from modelyard.errors import InvalidArgument
from modelyard.gateway.v1 import gateway_service_pb2 as gateway
from modelyard.names import ModelName, check_model
from modelyard.shadow.v1 import evaluation_pb2, report_pb2
from modelyard.shadow.v1 import shadow_service_pb2 as shadow

SHADOW = "modelyard.shadow.v1.ShadowService"
START = Method(SHADOW, "StartEvaluation", shadow.StartEvaluationResponse)
STOP = Method(SHADOW, "StopEvaluation", shadow.StopEvaluationResponse)
LIST = Method(SHADOW, "ListEvaluations", shadow.ListEvaluationsResponse)
GET_REPORT = Method(SHADOW, "GetReport", shadow.GetReportResponse)
WATCH_REPORT = Method(SHADOW, "WatchReport", shadow.WatchReportResponse)
FEEDBACK = Method(GATEWAY, "RecordFeedback", gateway.RecordFeedbackResponse)


def start(
    model: str,
    candidates: Sequence[int | str],
    baseline: int | str,
    plan: evaluation_pb2.Plan | None,
    note: str,
) -> Program[evaluation_pb2.Evaluation]:
    """Starts an evaluation."""
    request = shadow.StartEvaluationRequest(
        model=str(ModelName(check_model(model))),
        candidates=[str(candidate) for candidate in candidates],
        baseline=str(baseline),
        plan=plan or evaluation_pb2.Plan(sample=1.0),
        request_id=str(uuid.uuid4()),
        note=note,
    )
    return (yield from unary(START, request, TIMEOUT)).evaluation


def stop(name: str) -> Program[evaluation_pb2.Evaluation]:
    """Stops an evaluation."""
    request = shadow.StopEvaluationRequest(name=name)
    return (yield from unary(STOP, request, TIMEOUT)).evaluation


def evaluations(model: str | None) -> Program[list[evaluation_pb2.Evaluation]]:
    """The evaluations of one model, or of all; the latest first."""
    parent = "" if model is None else str(ModelName(check_model(model)))
    found: list[evaluation_pb2.Evaluation] = []
    token = ""
    while True:
        request = shadow.ListEvaluationsRequest(model=parent, page_size=PAGE, page_token=token)
        page = yield from unary(LIST, request, TIMEOUT)
        found += page.evaluations
        token = page.next_page_token
        if not token:
            return found


def report(name: str) -> Program[report_pb2.Report]:
    """What an evaluation has found."""
    return (yield from unary(GET_REPORT, shadow.GetReportRequest(name=name), TIMEOUT)).report


def feedback(model: str, request_id: str, truths: Mapping[str, Any]) -> Program[str]:
    """Writes the truth about an earlier call down."""
    request = gateway.RecordFeedbackRequest(
        model=str(ModelName(check_model(model))), request_id=request_id
    )
    for name, truth in truths.items():
        held = truth.tolist() if hasattr(truth, "tolist") else truth
        try:
            request.truths[name].CopyFrom(ParseDict(held, Value()))
        except ParseError:
            raise InvalidArgument(
                f"truths.{name}: {held!r} is no number, text, boolean or list", field="truths"
            ) from None
    return (yield from unary(FEEDBACK, request, TIMEOUT)).event_id
