"""What the archive's writer is told."""

from pydantic import Field

from modelyard.settings import ServerSettings, config


class ArchiveSettings(ServerSettings):
    """The archive writer's settings. Durations are in seconds."""

    model_config = config("archive")

    listen: str = Field("127.0.0.1:8104", description="unix:/path or host:port.")
    events: str = Field(description="The event log's Redis, by URL.")
    payloads: str = Field("", description="The payload store: a folder or an fsspec URL.")
    archive: str = Field(description="The archive: a folder, or an fsspec URL such as s3://...")
    retention_days: float = Field(
        0.0, ge=0, le=36_500, description="Older days are removed; 0: none."
    )
    flush_rows: int = Field(10_000, gt=0, description="Rows of a model are written at so many.")
    flush_bytes: int = Field(64 << 20, gt=0, description="The same, by bytes of their payloads.")
    flush_seconds: float = Field(30.0, gt=0, description="The same, by the age of the oldest.")
    background: bool = Field(False, description="Use only processor time that nothing else wants.")
