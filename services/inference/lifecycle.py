"""The life of a host, as its supervisor sees it. Pure: every change gives a new value.

::

    PENDING ──start──▶ LOADING ──▶ SERVING ──drain──▶ DRAINING ──▶ (forgotten)
       ▲                  │           │                   │
       │                  ▼           ▼                   ▼ too slow
       └────── FAILED ◀──exit─────────┴──── STOPPING ◀──kill
                 │ retry_at
                 └──start──▶ LOADING

A host keeps its id over its restarts, so that its failures stay in sight.
"""

import enum
import random
from dataclasses import dataclass, replace

from modelyard.names import VersionName


class Phase(enum.Enum):
    """Where a host is."""

    PENDING = "pending"
    LOADING = "loading"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAILED = "failed"


# These have a process.
RUNNING = frozenset({Phase.LOADING, Phase.SERVING, Phase.DRAINING, Phase.STOPPING})
# The exit code by which a host says that its artifact is at fault: another try will not help.
ARTIFACT_FAULT = 3


@dataclass(frozen=True, slots=True)
class Host:
    """One host. Times are in seconds of the supervisor's clock.

    Attributes:
        id: Unique over all supervisors and all time; short, as it names a socket.
        version: What it serves.
        digest: Of the artifact; a version with another digest is another thing.
        phase: Where it is.
        since: Since when it is there.
        stage: What it does within its phase, such as `warming`.
        address: Where it answers, while it serves.
        frames_address: Where it takes frames, while it serves; empty for nowhere.
        pid: Its process, while it has one.
        reason: Why it is in this phase, where there is more to say.
        restarts: How often it was started again.
        failures: Failures in a row; a long service ends the row.
        retry_at: When a failed one may be started again.
        permanent: True when its artifact is at fault.
        missed: Health checks missed in a row.
        unwanted: True when its process ends because nobody wants it, or by our own shutdown.
    """

    id: str
    version: VersionName
    digest: str
    phase: Phase
    since: float
    stage: str = ""
    address: str = ""
    frames_address: str = ""
    pid: int = 0
    reason: str = ""
    restarts: int = 0
    failures: int = 0
    retry_at: float = 0.0
    permanent: bool = False
    missed: int = 0
    unwanted: bool = False


@dataclass(frozen=True, slots=True)
class Retries:
    """When a failed host is started again. All in seconds.

    Attributes:
        first: After the first failure.
        limit: At most, however many failures came in a row.
        artifact_fault: After a failure that another try will hardly cure.
        forgiven_after: A service this long ends the row of failures.
    """

    first: float = 0.5
    limit: float = 30.0
    artifact_fault: float = 300.0
    forgiven_after: float = 60.0

    def delay(self, failures: int, permanent: bool, rng: random.Random) -> float:
        """Half of it is certain, half by chance, so that many hosts do not start as one."""
        most = (
            self.artifact_fault
            if permanent
            else min(self.limit, self.first * 2.0 ** min(failures - 1, 16))
        )
        return most * (0.5 + 0.5 * rng.random())


def starting(host: Host, now: float) -> Host:
    """A pending or failed host is given a process."""
    again = host.phase is Phase.FAILED
    return replace(
        host,
        phase=Phase.LOADING,
        since=now,
        stage="starting",
        # While it is tried again the last failure stays in sight.
        restarts=host.restarts + again,
        permanent=False,
        missed=0,
    )


def at_stage(host: Host, stage: str) -> Host:
    """A loading host says what it does."""
    return replace(host, stage=stage) if host.phase is Phase.LOADING else host


def serving(host: Host, address: str, now: float, frames_address: str = "") -> Host:
    """A loading host announces where it answers."""
    if host.phase is not Phase.LOADING:
        return host
    return replace(
        host,
        phase=Phase.SERVING,
        since=now,
        stage="",
        address=address,
        frames_address=frames_address,
        reason="",
        missed=0,
    )


def draining(host: Host, reason: str, now: float) -> Host:
    """Nobody wants the host: it is asked to end."""
    return replace(host, phase=Phase.DRAINING, since=now, stage="", reason=reason, unwanted=True)


def stopping(host: Host, reason: str, now: float) -> Host:
    """The host does not do what it should: it is killed."""
    return replace(host, phase=Phase.STOPPING, since=now, stage="", reason=reason)


def checked(host: Host, healthy: bool) -> Host:
    """A health check of a serving host came back, or did not."""
    if host.phase is not Phase.SERVING:
        return host
    return replace(host, missed=0 if healthy else host.missed + 1)


def ended(
    host: Host, *, permanent: bool, reason: str, now: float, retries: Retries, rng: random.Random
) -> Host | None:
    """The host's process ended, or could not begin. None when the host may be forgotten."""
    if host.unwanted:
        return None
    served = host.phase is Phase.SERVING and now - host.since >= retries.forgiven_after
    failures = 1 if served else host.failures + 1
    # One that we killed has its reason already.
    why = host.reason if host.phase is Phase.STOPPING else reason
    return replace(
        host,
        phase=Phase.FAILED,
        since=now,
        stage="",
        address="",
        frames_address="",
        pid=0,
        reason=why,
        failures=failures,
        retry_at=now + retries.delay(failures, permanent, rng),
        permanent=permanent,
        missed=0,
    )
