"""What the shadow service is told."""

from pydantic import Field

from modelyard.settings import ServerSettings, config


class ShadowSettings(ServerSettings):
    """The shadow service's settings. Durations are in seconds."""

    model_config = config("shadow")

    listen: str = Field("127.0.0.1:8103", description="unix:/path or host:port.")
    registry: str = Field(description="The registry's address: unix:/path or host:port.")
    redis: str = Field(description="Keeps evaluations and what they learnt, by URL.")
    events: str = Field(description="The event log's Redis, by URL.")
    payloads: str = Field("", description="The payload store: a folder or an fsspec URL.")
    archive: str = Field("", description="The archive: a folder or an fsspec URL; for back-tests.")
    keep_days: float = Field(
        365.0, gt=0, le=36_500, description="Evaluations that ended longer ago are forgotten."
    )
    share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="The share of the time in which an evaluation's candidates work; then they"
        " rest, for the sake of live calls on the same machine.",
    )
    background: bool = Field(False, description="Use only processor time that nothing else wants.")
