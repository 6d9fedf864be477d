"""A route, compiled for one call: which attempts may be made, and when each counts."""

from dataclasses import dataclass, field
from enum import StrEnum

from modelyard.catalog import Constant, Hedge, LastGood
from modelyard.names import VersionName


class Kind(StrEnum):
    """Why an attempt is made; travels as `modelyard-attempt`."""

    PRIMARY = "primary"
    HEDGE = "hedge"
    RETRY = "retry"
    FALLBACK = "fallback"
    RENDEZVOUS = "rendezvous"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a plan. The plan's order is the order of preference.

    Attributes:
        kind: Why it is made.
        target: The version that it asks; None where no host is asked.
        leg: Attempts of one leg ask the same version: hedges and retries belong to another's.
        start_at: Seconds after the race began at which it starts by itself; None when it starts
            only once everything before it has failed. Hedges and defaults take their moment
            from the race.
        start_share: The same, as a share of the call's time.
        accept_from: Seconds after the race began from which its answer counts while a
            preferred attempt may still succeed.
        answer: What is answered where no host is asked.
    """

    kind: Kind
    target: VersionName | None
    leg: int = 0
    start_at: float | None = None
    start_share: float | None = None
    accept_from: float = 0.0
    answer: Constant | LastGood | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The attempts that a call may use, the preferred first.

    Attributes:
        attempts: The attempts.
        hedge: When a hedge starts, and what it may cost; None for no hedges.
        remember: The metadata keys by which the answer is kept for a later fallback.
        timed: True where an attempt may start while another one is under way.
        alternatives: True where more than one version may answer.
    """

    attempts: tuple[Attempt, ...]
    hedge: Hedge | None = None
    remember: tuple[str, ...] = ()
    timed: bool = field(init=False)
    alternatives: bool = field(init=False)

    def __post_init__(self) -> None:
        kinds = {attempt.kind for attempt in self.attempts}
        object.__setattr__(self, "timed", bool(kinds - {Kind.PRIMARY, Kind.RETRY}))
        object.__setattr__(self, "alternatives", len({a.leg for a in self.attempts}) > 1)
