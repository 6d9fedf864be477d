"""Decides every race: what to do next, from what has happened so far. Pure.

The rules, in the order in which they are asked:

1. At the deadline the race is over.
2. An answer counts from its own moment (`accept_from`), or as soon as no preferred attempt can
   succeed any more. Of several that count, the preferred one wins. An answer that is there
   always counts just inside the deadline: better a lesser answer than none.
3. A primary and the versions of a rendezvous start at once. A hedge starts at its moment while
   an attempt of its leg is under way. A retry starts when all attempts of its leg have failed
   and the last error is one that another replica may mend, at the moment that the host asked
   for. A fallback or default starts once nothing before it can succeed, or at its moment.
4. Nothing starts any more after an error that belongs to the caller, nor what is less
   preferred than an answer that is there.
5. An error ends the race only when nothing is pending and nothing can start: an error never
   beats a pending success.
"""

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from gateway.plan import Attempt, Kind, Plan
from modelyard.errors import DeadlineExceeded, ModelyardError, OnFailure

# An answer that waits for a better one, and a default, come so long before the deadline: a tenth
# of the call's time, and at most this many seconds. What is left carries the answer home.
SPARE_SHARE, SPARE = 0.1, 0.025


class Phase(Enum):
    """Where an attempt is."""

    UNSTARTED = "unstarted"
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Failure:
    """How an attempt failed.

    Attributes:
        error: Why.
        at: When.
        pushback: Seconds that the host wants to pass before a retry; infinity for no retry.
    """

    error: ModelyardError
    at: float
    pushback: float = 0.0


@dataclass(slots=True)
class Race:
    """What has happened so far. Times are seconds on one clock.

    Attributes:
        plan: The attempts.
        began: When the race began.
        deadline: When it ends, come what may.
        hedge_at: When hedges start; None for never.
        phases: One for each attempt.
        failures: One for each attempt that failed.
    """

    plan: Plan
    began: float
    deadline: float
    hedge_at: float | None = None
    phases: list[Phase] = field(init=False)
    failures: dict[int, Failure] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.phases = [Phase.UNSTARTED] * len(self.plan.attempts)

    @property
    def last_call(self) -> float:
        """When any answer counts, just inside the deadline."""
        return self.deadline - min(SPARE, SPARE_SHARE * (self.deadline - self.began))


@dataclass(frozen=True, slots=True)
class Start:
    """Start the attempt with this index."""

    index: int


@dataclass(frozen=True, slots=True)
class Accept:
    """The attempt with this index has won."""

    index: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until an attempt ends, or this time comes."""

    until: float


@dataclass(frozen=True, slots=True)
class Fail:
    """The race is lost."""

    error: ModelyardError


Action: TypeAlias = Start | Accept | Wait | Fail


def next_action(race: Race, now: float) -> Action:
    """Gives the next thing to do; the same for the same race and the same moment."""
    surfaced = _surfaced(race) if race.failures else None
    if now >= race.deadline:
        return Fail(surfaced or DeadlineExceeded("the deadline passed before an answer came"))
    wake = race.deadline
    hopeless = True  # No attempt that is preferred to the one in hand can succeed any more.
    last: ModelyardError | None = None
    for index, attempt in enumerate(race.plan.attempts):
        match race.phases[index]:
            case Phase.PENDING:
                hopeless = False
            case Phase.SUCCEEDED:
                if hopeless:
                    return Accept(index)
                counts_from = min(race.began + attempt.accept_from, race.last_call)
                if now >= counts_from:
                    return Accept(index)
                # What stands below is less preferred than an answer that is there.
                return Wait(min(wake, counts_from))
            case Phase.FAILED:
                last = race.failures[index].error
            case Phase.UNSTARTED if surfaced is None:
                if attempt.kind is Kind.RETRY and not race.failures:
                    continue  # The usual case, for speed.
                due = _due(race, attempt, hopeless)
                if due is not None:
                    if now >= due:
                        return Start(index)
                    wake = min(wake, due)
                    hopeless = False
    if not hopeless:
        return Wait(wake)
    return Fail(surfaced or last or DeadlineExceeded("no attempt could be made"))


def _due(race: Race, attempt: Attempt, hopeless: bool) -> float | None:
    """When an unstarted attempt starts, as things stand; None for not at all."""
    match attempt.kind:
        case Kind.PRIMARY | Kind.RENDEZVOUS:
            return race.began + (attempt.start_at or 0.0)
        case Kind.RETRY:
            return _retry_due(race, attempt.leg)
        case Kind.HEDGE:
            return race.hedge_at if _is_pending(race, attempt.leg) else None
        case Kind.FALLBACK | Kind.DEFAULT:
            if hopeless:
                return race.began
            if attempt.start_share is not None:
                return race.began + attempt.start_share * (race.deadline - race.began)
            if attempt.start_at is not None:
                return race.began + attempt.start_at
            return race.last_call if attempt.kind is Kind.DEFAULT else None


def _retry_due(race: Race, leg: int) -> float | None:
    """When a leg whose attempts have all failed is tried again; None for not at all."""
    latest: Failure | None = None
    for index, attempt in enumerate(race.plan.attempts):
        if attempt.leg == leg:
            if race.phases[index] in (Phase.PENDING, Phase.SUCCEEDED):
                return None
            failure = race.failures.get(index)
            if failure is not None and (latest is None or failure.at >= latest.at):
                latest = failure
    if latest is None or latest.error.on_failure is not OnFailure.RETRY:
        return None
    due = latest.at + latest.pushback
    return due if math.isfinite(due) else None


def _is_pending(race: Race, leg: int) -> bool:
    return any(
        attempt.leg == leg and race.phases[index] is Phase.PENDING
        for index, attempt in enumerate(race.plan.attempts)
    )


def _surfaced(race: Race) -> ModelyardError | None:
    """An error that belongs to the caller, if there was one."""
    for failure in race.failures.values():
        if failure.error.on_failure is OnFailure.SURFACE:
            return failure.error
    return None
