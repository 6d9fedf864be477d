"""What the gateway is told."""

from typing import Literal

from pydantic import Field

from modelyard.settings import ServerSettings, config


class GatewaySettings(ServerSettings):
    """The gateway's settings. Durations are in seconds."""

    model_config = config("gateway")

    listen: str = Field("127.0.0.1:8001", description="unix:/path or host:port.")
    metrics_listen: str = Field("127.0.0.1:8002", description="host:port for Prometheus.")
    registry: str = Field(description="The registry's address: unix:/path or host:port.")
    default_deadline: float = Field(
        30.0, gt=0, description="Of a call whose caller and route give none."
    )
    access_log: Literal["none", "failures", "all"] = Field(
        "failures", description="The calls that a line of the log tells of."
    )
    max_attempts: int = Field(3, ge=1, le=5, description="Of a call whose connection fails.")
    first_view: float = Field(
        10.0, ge=0, description="The registry has so long to be heard before the gateway opens."
    )
