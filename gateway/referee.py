"""Decides every race: what to do next, from what has happened so far. Pure.

The rules, in the order in which they are asked:

1. An answer counts from its own moment (`accept_from`), or as soon as no preferred attempt
   can succeed any more. Of several that count, the preferred one wins.
2. At the deadline the race is over.
3. An attempt starts at its own time, or once all attempts before it have failed in a way
   that the next may mend: a retry mends a connection that failed, and nothing mends an error
   that belongs to the caller.
4. An error ends the race only when nothing is pending and nothing can start: an error never
   beats a pending success.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from gateway.plan import Attempt, Kind, Plan
from modelyard.errors import DeadlineExceeded, ModelyardError, OnFailure


class Phase(Enum):
    """Where an attempt is."""

    UNSTARTED = "unstarted"
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(slots=True)
class Race:
    """What has happened so far. Times are seconds on one clock.

    Attributes:
        plan: The attempts.
        began: When the race began.
        deadline: When it ends, come what may.
        phases: One for each attempt.
        errors: One for each attempt that failed.
    """

    plan: Plan
    began: float
    deadline: float
    phases: list[Phase] = field(init=False)
    errors: dict[int, ModelyardError] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.phases = [Phase.UNSTARTED] * len(self.plan.attempts)


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
    wake = race.deadline
    hopeless = True  # No attempt that is preferred to the one in hand can succeed any more.
    waiting_answer = False
    last: ModelyardError | None = None
    for index, attempt in enumerate(race.plan.attempts):
        match race.phases[index]:
            case Phase.SUCCEEDED:
                counts_from = race.began + attempt.accept_from
                if hopeless or now >= counts_from:
                    return Accept(index)
                wake = min(wake, counts_from)
                waiting_answer = True
            case Phase.PENDING:
                hopeless = False
            case Phase.FAILED:
                last = race.errors[index]
            case Phase.UNSTARTED:
                if now < race.deadline and not waiting_answer:
                    due = _start_time(race, attempt, last, hopeless)
                    if due is not None:
                        if now >= due:
                            return Start(index)
                        wake = min(wake, due)
                        hopeless = False
    if now >= race.deadline:
        return Fail(DeadlineExceeded("the deadline passed before an answer came"))
    if hopeless:
        return Fail(last if last is not None else DeadlineExceeded("no attempt could be made"))
    return Wait(wake)


def _start_time(
    race: Race, attempt: Attempt, last: ModelyardError | None, hopeless: bool
) -> float | None:
    """When an unstarted attempt starts; None while it does not."""
    if last is None:
        return None if attempt.start_at is None else race.began + attempt.start_at
    if not hopeless:
        return None if attempt.start_at is None else race.began + attempt.start_at
    return race.began if _mends(attempt.kind, last) else None


def _mends(kind: Kind, error: ModelyardError) -> bool:
    """Tells whether an attempt of this kind is worth making after this error."""
    match kind:
        case Kind.RETRY:
            return error.on_failure is OnFailure.RETRY
        case Kind.PRIMARY:
            return True
