"""What the gateway is told."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from modelyard.settings import ServerSettings, config


class GatewaySettings(ServerSettings):
    """The gateway's settings. Durations are in seconds."""

    model_config = config("gateway")

    listen: str = Field("127.0.0.1:8001", description="unix:/path or host:port.")
    metrics_listen: str = Field("127.0.0.1:8002", description="host:port for Prometheus.")
    registry: str = Field(description="The registry's address: unix:/path or host:port.")
    redaction: Path | None = Field(
        None, description="Rules of what is taken out before anything is stored; a YAML file."
    )
    redaction_key: Path | None = Field(None, description="The key of their hashes; a file.")
    shadow: str = Field("", description="The shadow service's address; empty for none.")
    default_deadline: float = Field(
        30.0, gt=0, description="Of a call whose caller and route give none."
    )
    access_log: Literal["none", "failures", "all"] = Field(
        "failures", description="The calls that a line of the log tells of."
    )
    events: str = Field("", description="The event log's Redis, by URL; empty for no event log.")
    events_length: int = Field(
        1_000_000, gt=0, description="Events that are kept of each model, at most."
    )
    events_bytes: int = Field(
        512 << 20, gt=0, description="Bytes of events that are kept of each model, at most."
    )
    events_age: float = Field(86_400.0, gt=0, description="Older events are cut off.")
    events_inline: int = Field(
        64 << 10, ge=0, description="Larger payloads, in bytes, go to the payload store."
    )
    payloads: str = Field(
        "", description="The payload store: a folder or an fsspec URL; empty leaves them out."
    )
    front: Literal["auto", "http2", "envoy", "grpcio"] = Field(
        "auto", description="Takes calls: our own, Envoy with the gateway inside, or grpc.aio."
    )
    workers: int = Field(
        1, ge=1, le=64, description="Processes that share the port's calls; above 1 needs Envoy."
    )
    lane: Literal["auto", "grpc", "frames"] = Field(
        "auto", description="To hosts: frames where their socket is on this machine, or gRPC."
    )
    max_attempts: int = Field(3, ge=1, le=5, description="Of a call whose connection fails.")
    first_view: float = Field(
        10.0, ge=0, description="The registry has so long to be heard before the gateway opens."
    )
