"""The host's server: the protocol, health, reflection, message limits on purpose."""

from typing import TYPE_CHECKING

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.inference.v2 import open_inference_pb2_grpc as pb_grpc
from modelyard.interceptors import ErrorInterceptor

if TYPE_CHECKING:
    from services.inference.host.servicer import HostServicer
    from services.inference.host.settings import HostSettings

_SERVICE = "inference.GRPCInferenceService"


async def start(
    servicer: "HostServicer", settings: "HostSettings"
) -> tuple[grpc.aio.Server, str, health.aio.HealthServicer]:
    """A server that answers, its bound address, and its health."""
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor()],
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            # Two hosts on one port would share its calls in silence.
            ("grpc.so_reuseport", 0),
            # The gateway asks idle connections whether they live.
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    channelz.add_channelz_servicer(server)
    reflection.enable_server_reflection(
        (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server, pool=pb.DESCRIPTOR.pool
    )
    port = server.add_insecure_port(settings.listen)
    await server.start()
    for name in (_SERVICE, health.OVERALL_HEALTH):
        await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
    if settings.listen.startswith("unix:"):
        return server, settings.listen, healthy
    return server, f"{settings.listen.rpartition(':')[0]}:{port}", healthy
