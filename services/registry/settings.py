"""What the registry is told."""

from pathlib import Path

from pydantic import Field

from modelyard.settings import Listed, ServerSettings, config


class RegistrySettings(ServerSettings):
    """The registry's settings. Durations are in seconds."""

    model_config = config("registry")

    listen: str = Field("127.0.0.1:8101", description="unix:/path or host:port.")
    redis: str = Field(
        description="redis://, rediss://, unix:///path, redis+cluster:// or redis+sentinel://."
    )
    artifacts: str = Field(description="The artifact store: a folder or an fsspec URL.")
    uploads: Path | None = Field(
        None, description="Where uploads grow; beside a local artifact store unless given."
    )
    url_schemes: Listed = Field(
        ("https", "s3", "gs", "abfs"), description="Of source_url; `file` only where it is named."
    )
    largest_file: int = Field(64 << 30, gt=0, description="The largest upload, in bytes.")
    load_timeout: float = Field(300.0, gt=0, description="Of the try of a new model.")
