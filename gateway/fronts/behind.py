"""The grpc.aio server behind a front that answers the hot methods itself."""

from pathlib import Path

from gateway.settings import GatewaySettings


def behind(settings: GatewaySettings, socket: Path) -> GatewaySettings:
    """The settings of that server, to which the front alone speaks, on a socket of its own."""
    return settings.model_copy(
        update={
            "listen": f"unix:{socket}",
            "tls_cert": None,
            "tls_key": None,
            "tls_client_ca": None,
            "max_connection_age": 0.0,
        }
    )
