"""What the supervisor is told."""

import hashlib
import ipaddress
import os
import socket
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from modelyard.settings import Listed, ServerSettings, config

# A socket's path has at most 107 bytes; a host's adds "/", 16 for its id, its restarts, ".sock".
_LONGEST_RUN_DIR = 75


class InferenceSettings(ServerSettings):
    """The supervisor's settings. Durations are in seconds."""

    model_config = config("inference")

    registry: str = Field(description="The registry's address: unix:/path or host:port.")
    artifacts: str = Field(description="The artifact store: a folder or an fsspec URL.")
    data_dir: Path = Field(description="What lasts: logs, the catalogue last heard, the cache.")
    run_dir: Path = Field(description="Sockets and records of living hosts; a short path.")
    cache_dir: Path = Field(Path(), description="Artifacts on this machine; DATA_DIR/cache.")
    cache_bytes: int = Field(20 << 30, ge=0, description="The cache's limit, in bytes.")
    host_listen: str = Field("unix", description="Hosts answer on unix sockets, or on this IP.")
    models: Listed = Field(("*",), description="Patterns of models that are served here.")
    replicas: int = Field(1, ge=1, le=64, description="Hosts of each version.")
    starts: int = Field(0, ge=0, description="Hosts that load at a time; 0: one a processor.")
    threads: int = Field(0, ge=0, description="Of each host; 0: as many as processors.")
    providers: Listed = Field((), description="Execution providers, the preferred first.")
    load_timeout: float = Field(300.0, gt=0, description="A host that loads longer is killed.")
    retry_first: float = Field(0.5, gt=0, description="A failed host is started again after.")
    retry_limit: float = Field(30.0, gt=0, description="The same, however often it failed.")
    orphan_grace: float = Field(15.0, ge=1, description="Hosts without supervisor end after.")
    check_every: float = Field(1.0, gt=0, description="Between health checks of a host.")
    check_timeout: float = Field(2.0, gt=0, description="Of one health check.")
    check_misses: int = Field(3, ge=1, description="Checks missed in a row: the host is killed.")
    supervisor: str = Field("", description="Its name; host name and a hash of DATA_DIR.")
    pool: Literal["", "shadow"] = Field(
        "", description="Whom the hosts answer: callers, or, for `shadow`, evaluations alone."
    )
    background: bool = Field(
        False, description="Hosts use only processor time that nothing else wants."
    )
    leave_hosts: bool = Field(False, description="SIGTERM leaves the hosts to the next one.")

    @field_validator("data_dir", "run_dir", "cache_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser() if path == Path() else path.expanduser().resolve()

    @field_validator("run_dir")
    @classmethod
    def _short(cls, path: Path) -> Path:
        length = len(os.fsencode(path))
        if length > _LONGEST_RUN_DIR:
            raise ValueError(f"{length} bytes long; sockets need one of at most {_LONGEST_RUN_DIR}")
        return path

    @field_validator("host_listen")
    @classmethod
    def _interface(cls, value: str) -> str:
        if value != "unix":
            try:
                ipaddress.ip_address(value)
            except ValueError:
                raise ValueError("neither 'unix' nor an IP address") from None
        return f"[{value}]" if ":" in value else value

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, values: dict[str, object]) -> dict[str, object]:
        data = values.get("data_dir")
        if data is not None:
            folder = Path(str(data)).expanduser().resolve()
            name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
            values = {
                "cache_dir": folder / "cache",
                "supervisor": f"{socket.gethostname()}-{name}",
                **{key: value for key, value in values.items() if value != ""},
            }
        return values

    @model_validator(mode="after")
    def _private(self) -> "InferenceSettings":
        if self.host_listen == "unix" or self.insecure:
            return self
        if not ipaddress.ip_address(self.host_listen.strip("[]")).is_loopback:
            raise ValueError(
                f"host_listen {self.host_listen}: hosts answer without TLS;"
                " beyond loopback only with --insecure"
            )
        return self
