"""What `modelyard serve` is told, beside its files."""

from typing import Literal

from pydantic import Field

from modelyard.settings import Listed, ServerSettings, config
from services.embedded.core import DEADLINE


class ServeSettings(ServerSettings):
    """The settings of one process. Durations are in seconds."""

    model_config = config("serve")
    model_config["cli_prog_name"] = "modelyard serve"

    listen: str = Field("127.0.0.1:8001", description="unix:/path or host:port.")
    metrics_listen: str = Field("127.0.0.1:8002", description="host:port for Prometheus.")
    threads: int = Field(
        0, ge=0, description="Of onnxruntime; 0: the processors that this process may use."
    )
    providers: Listed = Field(
        ("CPUExecutionProvider",), description="Execution providers, the preferred first."
    )
    default_deadline: float = Field(
        DEADLINE, gt=0, description="Of a call whose caller gives none."
    )
    access_log: Literal["none", "failures", "all"] = Field(
        "failures", description="The calls that a line of the log tells of."
    )
