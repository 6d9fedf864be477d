"""Settings: from flags, the environment and a file, checked once, and never changed.

Flags win over the environment, which wins over the file. What is wrong is told with the
field's name and the value that it was given, and ends the process with 2.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import grpc
import yaml
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    SettingsConfigDict,
    SettingsError,
)

from modelyard.addresses import has_port, is_private

S = TypeVar("S", bound=BaseSettings)

# grpc keeps sizes (bytes) and durations (milliseconds) in 32 bits.
_LARGEST = (1 << 31) - 1
_LONGEST = _LARGEST // 1000

_LEVELS = tuple(logging.getLevelNamesMapping())


def _listed(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


# In flags and in the environment a comma stands between two.
Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]


def config(room: str) -> SettingsConfigDict:
    """How the settings of a room are read: `MODELYARD_<ROOM>_*`, kebab-case flags."""
    return SettingsConfigDict(
        env_prefix=f"MODELYARD_{room.upper()}_",
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_prog_name=f"python -m {'gateway' if room == 'gateway' else f'services.{room}'}",
    )


class ServerSettings(BaseSettings):
    """What every server is told. Durations are in seconds."""

    listen: str = Field("127.0.0.1:0", description="unix:/path or host:port.")
    metrics_listen: str = Field("", description="host:port for Prometheus; empty for none.")
    insecure: bool = Field(False, description="Listen beyond loopback without TLS.")
    tls_cert: Path | None = Field(None, description="The server's certificates, PEM.")
    tls_key: Path | None = Field(None, description="The certificate's key, PEM.")
    tls_client_ca: Path | None = Field(None, description="Who may call: certificates, PEM.")
    max_message_bytes: int = Field(
        128 << 20, gt=0, le=_LARGEST, description="Of a request or response."
    )
    max_connection_age: float = Field(
        0.0, ge=0, le=_LONGEST, description="0: connections live for ever."
    )
    drain_propagation: float = Field(
        0.2, ge=0, le=_LONGEST, description="Clients see the drain within."
    )
    drain_grace: float = Field(
        30.0, ge=0, le=_LONGEST, description="Calls have so long to end in a drain."
    )
    otlp_endpoint: str = Field("", description="Where spans go; none are made when empty.")
    log_level: str = Field("INFO", description="The least that is logged.")

    @field_validator("listen")
    @classmethod
    def _listens(cls, address: str) -> str:
        if not address.startswith("unix:") and not has_port(address):
            raise ValueError("neither unix:/path nor host:port, with a port up to 65535")
        return address

    @field_validator("metrics_listen")
    @classmethod
    def _scraped(cls, address: str) -> str:
        if address and not has_port(address):
            raise ValueError("not host:port, with a port up to 65535")
        return address

    @field_validator("log_level")
    @classmethod
    def _level(cls, level: str) -> str:
        if level.upper() not in _LEVELS:
            raise ValueError(f"none of {', '.join(_LEVELS)}")
        return level

    @model_validator(mode="after")
    def _guarded(self) -> "ServerSettings":
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key belong together: one of them is missing")
        if self.tls_client_ca and not self.tls_cert:
            # Without TLS nobody would be asked who he is.
            raise ValueError(
                f"tls_client_ca {str(self.tls_client_ca)!r}: needs tls_cert and tls_key"
            )
        if not (self.tls_cert or self.insecure or is_private(self.listen)):
            raise ValueError(
                f"listen {self.listen!r} is reachable from other machines:"
                " give tls_cert and tls_key, or --insecure"
            )
        return self

    def credentials(self) -> grpc.ServerCredentials | None:
        """For TLS; None without. Raises OSError when a file cannot be read."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        pair = (self.tls_key.read_bytes(), self.tls_cert.read_bytes())
        authorities = self.tls_client_ca.read_bytes() if self.tls_client_ca else None
        return grpc.ssl_server_credentials([pair], authorities, authorities is not None)


def load(kind: type[S], argv: Sequence[str]) -> S:
    """Reads settings, or ends the process with 2 and a line for each fault.

    Args:
        kind: The settings' class.
        argv: The flags; `--config FILE` names a YAML file of fields.
    """
    try:
        flags, file = _split(list(argv))
        settings: S = _over(kind, file)(_cli_parse_args=flags)
        return settings
    except ValidationError as error:
        for fault in error.errors():
            field = ".".join(str(part) for part in fault["loc"])
            value = "" if fault["type"] == "missing" or not field else f" {fault['input']!r}"
            message = fault["msg"].removeprefix("Value error, ")
            print(f"{field}{value}: {message}" if field else message, file=sys.stderr)
    except (SettingsError, OSError, yaml.YAMLError) as error:
        print(error, file=sys.stderr)
    raise SystemExit(2)


def _split(argv: list[str]) -> tuple[list[str], Path | None]:
    """The flags without `--config`, and the file that it names."""
    for at, flag in enumerate(argv):
        if flag.startswith("--config="):
            return argv[:at] + argv[at + 1 :], _existing(flag.removeprefix("--config="))
        if flag == "--config":
            if at + 1 == len(argv):
                raise SettingsError("--config: names no file")
            return argv[:at] + argv[at + 2 :], _existing(argv[at + 1])
    return argv, None


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise SettingsError(f"--config {path!r}: no such file")
    return Path(path)


def _fields(file: Path) -> dict[str, Any]:
    """What a file says of each field; nothing where it is empty."""
    try:
        with file.open(encoding="utf-8") as text:
            held = yaml.safe_load(text)
    except ValueError as error:
        # Bytes that are not UTF-8, or a date such as 2024-13-45.
        raise SettingsError(f"--config {str(file)!r}: {error}") from error
    if held is None:
        return {}
    if not isinstance(held, dict) or not all(isinstance(name, str) for name in held):
        raise SettingsError(f"--config {str(file)!r}: not a mapping of fields to values")
    return held


def _over(kind: type[S], file: Path | None) -> Any:
    """The same settings, with a file below the flags and the environment."""
    if file is None:
        return kind
    fields = _fields(file)

    class Layered(kind):  # type: ignore[misc, valid-type]
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *sources: Any, **named: Any
        ) -> tuple[Any, ...]:
            below = InitSettingsSource(settings_cls, fields)
            return (named["init_settings"], named["env_settings"], below)

    return Layered
