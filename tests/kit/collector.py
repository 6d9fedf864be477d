"""An OTLP collector that keeps every span, and a call that has a caller's trace."""

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc

from modelyard.inference.v2 import open_inference_pb2 as oip

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
        """The spans of a room, all or those of one trace."""
        return [
            span
            for made_by, span in list(self.spans)
            if made_by == f"modelyard-{room}" and trace in (None, span.trace_id.hex())
        ]


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    """A collector while the block runs, and its endpoint."""
    kept = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    pb_grpc.add_TraceServiceServicer_to_server(kept, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield kept, f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def traced_call(address: str, model: str) -> None:
    """A call of a model of tests.kit.scale, below the span PARENT of the trace TRACE."""
    request = oip.ModelInferRequest(model_name=model)
    request.inputs.add(name="X", datatype="FP32", shape=[1, 2])
    request.raw_input_contents.append(bytes(8))
    with grpc.insecure_channel(address) as channel:
        channel.unary_unary(f"/{INFER}")(
            request.SerializeToString(),
            metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),),
            timeout=30,
        )
