"""Hosts, as the registry tells of them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from modelyard.names import VersionName

# Whom a host answers.
CALLERS = ""
SHADOW = "shadow"
POOLS = (CALLERS, SHADOW)


class HostState(Enum):
    """Where a host is in its life."""

    PENDING = "pending"
    LOADING = "loading"
    SERVING = "serving"
    DRAINING = "draining"
    FAILED = "failed"


_LONG_AGO = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Host:
    """A process that serves one version.

    Attributes:
        id: Unique over all supervisors and all time.
        version: What it serves.
        state: Where it is in its life.
        address: `unix:/path` or `host:port`.
        frames_address: Where it takes frames on its machine, `unix:/path`; empty for nowhere.
        reason: Why it is in this state, where there is more to say.
        stage: What it is doing within its state.
        restarts: How often it was started again after a failure.
        since: Since when it is in this state.
        machine: Where it runs.
        pid: Its process there; 0 while it has none.
        pool: Whom it answers: callers, or evaluations alone.
    """

    id: str
    version: VersionName
    state: HostState
    address: str = ""
    reason: str = ""
    stage: str = ""
    restarts: int = 0
    since: datetime = _LONG_AGO
    machine: str = ""
    pid: int = 0
    pool: str = CALLERS
    frames_address: str = ""
