"""One trace over every hop: the caller's, the gateway's, the host's; and the registry's."""

from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc

from modelyard.inference.v2 import open_inference_pb2 as oip
from tests.kit.scale import scale
from tests.kit.yard import LANES, Yard, eventually, running_yard

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
INFER = "inference.GRPCInferenceService/ModelInfer"


class Collector(pb_grpc.TraceServiceServicer):
    """Keeps every span, with the room that made it."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(names["service.name"], span) for span in scope.spans]
        return pb.ExportTraceServiceResponse()

    def of(self, room: str, trace: str | None = None) -> list[Any]:
        return [
            span
            for made_by, span in list(self.spans)
            if made_by == f"modelyard-{room}" and trace in (None, span.trace_id.hex())
        ]


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[Collector, str]]:
    kept = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    pb_grpc.add_TraceServiceServicer_to_server(kept, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield kept, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture(scope="module", params=LANES)
def yard(
    tmp_path_factory: pytest.TempPathFactory,
    collector: tuple[Collector, str],
    request: pytest.FixtureRequest,
) -> Iterator[Yard]:
    folder: Path = tmp_path_factory.mktemp("traces")
    collector[0].spans.clear()
    with running_yard(folder / "yard", "--otlp-endpoint", collector[1], lane=request.param) as yard:
        yard.client.register("scale", scale(folder, 2.0), wait=True)
        yield yard


def call(yard: Yard, model: str) -> None:
    request = oip.ModelInferRequest(model_name=model)
    request.inputs.add(name="X", datatype="FP32", shape=[1, 2])
    request.raw_input_contents.append(np.ones((1, 2), np.float32).tobytes())
    with grpc.insecure_channel(yard.address) as channel:
        infer = channel.unary_unary(f"/{INFER}")
        infer(
            request.SerializeToString(),
            metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),),
            timeout=30,
        )


def test_one_trace_over_every_hop(yard: Yard, collector: tuple[Collector, str]) -> None:
    spans, _ = collector
    call(yard, "scale")
    host = eventually(lambda: spans.of("host", TRACE))[0]
    at_gateway = eventually(
        lambda: [s for s in spans.of("gateway", TRACE) if s.parent_span_id.hex() == PARENT]
    )[0]
    assert at_gateway.name == INFER
    assert host.name == INFER
    # The host's span hangs below the attempt's, and that below the call's.
    attempt = next(s for s in spans.of("gateway", TRACE) if s.span_id == host.parent_span_id)
    assert attempt.name == "attempt primary"
    assert attempt.parent_span_id == at_gateway.span_id
    told = {a.key: a.value.string_value for a in at_gateway.attributes}
    assert told["modelyard.served_by"] == "models/scale/versions/1"
    assert told["modelyard.request_id"]


def test_a_failed_call_says_so_in_its_span(yard: Yard, collector: tuple[Collector, str]) -> None:
    spans, _ = collector
    with pytest.raises(grpc.RpcError):
        call(yard, "unknown")
    failed = eventually(lambda: [s for s in spans.of("gateway") if s.status.code == 2])[0]
    assert "not found" in failed.status.message


def test_the_registry_makes_spans(yard: Yard, collector: tuple[Collector, str]) -> None:
    spans, _ = collector
    yard.client.models()
    assert eventually(
        lambda: [s for s in spans.of("registry") if s.name.endswith("RegistryService/ListModels")]
    )
