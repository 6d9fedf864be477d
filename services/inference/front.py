"""The supervisor's own server: health, reflection, channelz. Its hosts answer inference."""

import grpc.aio
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from modelyard.errors import FailedPrecondition
from modelyard.interceptors import ErrorInterceptor


class Front:
    """A server that tells whether the supervisor is well.

    Args:
        listen: `unix:/path` or `host:port`.
    """

    def __init__(self, listen: str) -> None:
        self._listen = listen
        self._server = grpc.aio.server(
            interceptors=[ErrorInterceptor()], options=[("grpc.so_reuseport", 0)]
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        channelz.add_channelz_servicer(self._server)
        reflection.enable_server_reflection(
            (health.SERVICE_NAME, "grpc.channelz.v1.Channelz", reflection.SERVICE_NAME),
            self._server,
        )

    async def start(self) -> str:
        """Begins to answer; gives the address. Raises FailedPrecondition when it is taken."""
        try:
            port = self._server.add_insecure_port(self._listen)
        except RuntimeError as error:
            raise FailedPrecondition(f"listen {self._listen!r}: cannot be bound") from error
        await self._server.start()
        await self._health.set(health.OVERALL_HEALTH, health_pb2.HealthCheckResponse.SERVING)
        if self._listen.startswith("unix:"):
            return self._listen
        return f"{self._listen.rpartition(':')[0]}:{port}"

    async def drain(self) -> None:
        """Says that the supervisor is on its way out."""
        await self._health.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Ends."""
        await self._server.stop(0.5)
