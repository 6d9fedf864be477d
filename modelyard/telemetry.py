"""Metrics and traces, for every room.

Metrics are read, not pushed: a room hands a collector its counters, and Prometheus adds them
up when it scrapes, so that a call pays for an addition and nothing more.

Traces follow W3C Trace Context. A caller's `traceparent` goes on to the next hop with the rest
of its metadata, always. Spans are made only where an OTLP endpoint is given: in Python they cost a
call much beside what the gateway does with it.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from wsgiref.simple_server import WSGIServer

from opentelemetry import propagate, trace
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.registry import Collector

import modelyard
from modelyard.errors import FailedPrecondition

Pairs = tuple[tuple[str, str | bytes], ...]

_CONTEXT = frozenset({"traceparent", "tracestate", "baggage"})


class Tracing:
    """Makes spans and carries their context over hops.

    Args:
        room: Named in each span's resource.
        endpoint: An OTLP receiver over gRPC, such as `http://127.0.0.1:4317`.
    """

    def __init__(self, room: str, endpoint: str) -> None:
        # Some 20 MB, which only processes that make spans pay.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create(
            {SERVICE_NAME: f"modelyard-{room}", SERVICE_VERSION: modelyard.__version__}
        )
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("modelyard")

    @contextmanager
    def span(
        self, name: str, received: Pairs, kind: trace.SpanKind, attributes: dict[str, str]
    ) -> Iterator[tuple[trace.Span, Pairs]]:
        """A span under the caller's; gives it and the metadata for the next hop.

        Args:
            name: Of the span, such as `inference.GRPCInferenceService/ModelInfer`.
            received: The metadata that came in.
            kind: SERVER where the call came in over the network.
            attributes: What is known at the start.
        """
        carrier = {k: v for k, v in received if k in _CONTEXT and isinstance(v, str)}
        parent = propagate.extract(carrier)
        with self._tracer.start_as_current_span(
            name, context=parent, kind=kind, attributes=attributes
        ) as span:
            sent: dict[str, str] = {}
            propagate.inject(sent)
            rest = tuple((k, v) for k, v in received if k not in _CONTEXT)
            yield span, (*rest, *sent.items())

    @contextmanager
    def served(
        self, method: str, received: Iterable[tuple[str, str | bytes]]
    ) -> Iterator[trace.Span]:
        """The span of a call that came in; `method` as grpc has it, `/package.Service/Method`."""
        service, _, name = method.strip("/").rpartition("/")
        about = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        with self.span(f"{service}/{name}", tuple(received), trace.SpanKind.SERVER, about) as made:
            yield made[0]

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()


@contextmanager
def traced(room: str, endpoint: str) -> Iterator[Tracing | None]:
    """Traces to this endpoint while the block runs; None where it is empty."""
    if not endpoint:
        yield None
        return
    tracing = Tracing(room, endpoint)
    try:
        yield tracing
    finally:
        tracing.close()


def registry_of(collectors: Sequence[Collector], process: bool = True) -> CollectorRegistry:
    """What Prometheus reads: these collectors and, unless told otherwise, of this process."""
    registry = CollectorRegistry()
    if process:
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    return registry


class Metrics:
    """Answers Prometheus.

    Args:
        listen: `host:port`.
        collectors: Read at each scrape.
        process: Tells of this process, too.

    Raises:
        FailedPrecondition: The address is taken.
    """

    def __init__(self, listen: str, collectors: Sequence[Collector], process: bool = True) -> None:
        registry = registry_of(collectors, process)
        host, _, port = listen.rpartition(":")
        try:
            served: tuple[WSGIServer, threading.Thread] = start_http_server(
                int(port), host.strip("[]"), registry
            )
        except OSError as error:
            raise FailedPrecondition(
                f"metrics_listen {listen!r}: {error.strerror}", field="metrics_listen"
            ) from error
        self._server, self._thread = served

    @property
    def port(self) -> int:
        """The port that was bound."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stops answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
