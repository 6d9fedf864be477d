"""Where the yard is and how to reach it."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias

import grpc

from modelyard.client.steps import Metadata
from modelyard.errors import HostGone, ModelyardError
from modelyard.status import from_rpc_error

DEFAULT_ADDRESS = "127.0.0.1:8001"
ADDRESS_VARIABLE = "MODELYARD_ADDRESS"

# A caller takes whatever answer its model makes; the server guards its own side.
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))

Seconds: TypeAlias = float | timedelta
MetadataLike: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Tls:
    """An encrypted connection.

    Attributes:
        ca: A PEM file of the authorities to trust; the system's when None.
        certificate: A PEM file that says who the caller is, where the server asks for it.
        key: The PEM file of the certificate's key.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel; raises OSError when a file cannot be read."""
        ca, certificate, key = (
            None if path is None else Path(path).read_bytes()
            for path in (self.ca, self.certificate, self.key)
        )
        return grpc.ssl_channel_credentials(ca, key, certificate)


def address_or_default(address: str | None) -> str:
    """The address given, else the environment's, else the default one."""
    return address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS


def seconds(duration: Seconds | None) -> float | None:
    """A duration in seconds; None stays None."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def pairs(metadata: MetadataLike | None) -> Metadata:
    """Request metadata in the order given, with its keys in small letters."""
    if metadata is None:
        return ()
    items = metadata.items() if isinstance(metadata, Mapping) else metadata
    return tuple((key.lower(), value) for key, value in items)


def texts(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """Response metadata without its binary entries."""
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def typed(error: grpc.RpcError, address: str) -> ModelyardError:
    """The error of `modelyard.errors` for a failed call; says where nobody answered."""
    known = from_rpc_error(error)
    if isinstance(known, HostGone) and not known.metadata:
        return HostGone(f"no yard answers at {address}: {known.message}", address=address)
    return known
