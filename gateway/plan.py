"""A route, compiled for one call: which attempts may be made, and when each counts."""

from dataclasses import dataclass
from enum import StrEnum

from modelyard.names import VersionName


class Kind(StrEnum):
    """Why an attempt is made; travels as `modelyard-attempt`."""

    PRIMARY = "primary"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a plan. The plan's order is the order of preference.

    Attributes:
        kind: Why it is made.
        target: The version that it asks.
        start_at: Seconds after the race began at which it starts by itself; None when it
            starts only once every attempt before it has failed.
        accept_from: Seconds after the race began from which its answer counts while a
            preferred attempt may still succeed.
    """

    kind: Kind
    target: VersionName
    start_at: float | None = None
    accept_from: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The attempts that a call may use, the preferred first."""

    attempts: tuple[Attempt, ...]


def retrying(target: VersionName, max_attempts: int) -> Plan:
    """One version, tried up to `max_attempts` times, each on another replica."""
    first = Attempt(Kind.PRIMARY, target, start_at=0.0)
    again = Attempt(Kind.RETRY, target)
    return Plan((first, *(again for _ in range(max_attempts - 1))))
