"""What the supervisor's loop asks of the world around it, and how often."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from modelyard.names import VersionName
from services.inference.artifacts import Artifact, Local
from services.inference.lifecycle import Host


class Artifacts(Protocol):
    """Brings artifacts onto this machine."""

    async def fetch(self, artifact: Artifact, in_use: Iterable[str] = ()) -> Local:
        """Brings one here; raises a ModelyardError."""

    async def discard(self, digest: str) -> None:
        """Drops one that is not in use."""


class Probes(Protocol):
    """Asks hosts how they are."""

    async def healthy(self, address: str) -> bool:
        """Tells whether the host answers."""

    async def serves(self, address: str, version: VersionName) -> bool:
        """Tells whether the host at this address serves this version."""

    async def forget(self, keep: set[str]) -> None:
        """Drops what is held for all other addresses."""


class Reports(Protocol):
    """Tells others which hosts there are."""

    def offer(self, hosts: Iterable[Host]) -> None:
        """The hosts as they are now."""

    async def delivered(self, timeout: float) -> bool:
        """Waits until what was offered last has arrived."""


@dataclass(frozen=True, slots=True)
class Timing:
    """In seconds.

    Attributes:
        check_every: Between two health checks of a host.
        drain_notice: Between the report that a host drains and its SIGTERM: callers learn first.
        report_wait: How long a drain waits for its report to arrive.
    """

    check_every: float = 1.0
    drain_notice: float = 0.5
    report_wait: float = 1.0
