"""One circuit for each version: calls that have another way do not go where they would fail.

After Finagle's failure accrual: a circuit opens after 5 failures in a row, or when under 80 % of
the attempts of 30 s succeeded; it stays open for an equal-jittered time of 5 s, doubled up to
300 s; then one call is let through to try.

A version that is the only way a call has is asked whatever its circuit says: a refusal would
fail the call for certain.
"""

import random
from dataclasses import dataclass

from modelyard.names import VersionName

IN_A_ROW = 5
LEAST_SUCCESS, WINDOW, LEAST_DATA = 0.8, 30.0, 20
FIRST_REST, LONGEST_REST = 5.0, 300.0
# After so many openings the rest is the longest.
_MOST_DOUBLINGS = 6


@dataclass(slots=True)
class _State:
    """Of a version that failed of late."""

    since: float
    in_a_row: int = 0
    succeeded: int = 0
    failed: int = 0
    opened: int = 0
    open_until: float | None = None
    trying: bool = False


class Circuits:
    """The circuits of all versions; those that do not fail cost nothing.

    Args:
        chance: Draws the jitter.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._states: dict[VersionName, _State] = {}

    def allows(self, version: VersionName, now: float) -> bool:
        """Tells whether an attempt may go to a version; one that tries an open circuit may."""
        state = self._states.get(version)
        if state is None or state.open_until is None:
            return True
        if now < state.open_until or state.trying:
            return False
        state.trying = True
        return True

    def is_open(self, version: VersionName, now: float) -> bool:
        """Tells whether attempts are kept away now; asks for nothing."""
        state = self._states.get(version)
        return state is not None and state.open_until is not None and now < state.open_until

    def succeeded(self, version: VersionName, now: float) -> None:
        """Records a success, which closes an open circuit."""
        state = self._states.get(version)
        if state is None:
            return
        if state.open_until is not None:
            # Calls that were under way when it opened say nothing of it now.
            if state.trying:
                del self._states[version]
            return
        if now - state.since > WINDOW:
            del self._states[version]
            return
        state.in_a_row = 0
        state.succeeded += 1

    def failed(self, version: VersionName, now: float) -> None:
        """Records a failure, which may open the circuit."""
        state = self._states.get(version)
        if state is None or (state.open_until is None and now - state.since > WINDOW):
            state = self._states[version] = _State(now)
        state.in_a_row += 1
        state.failed += 1
        total = state.succeeded + state.failed
        bad = total >= LEAST_DATA and state.succeeded < LEAST_SUCCESS * total
        if state.trying or (state.open_until is None and (state.in_a_row >= IN_A_ROW or bad)):
            rest = min(FIRST_REST * 2.0 ** min(state.opened, _MOST_DOUBLINGS), LONGEST_REST)
            state.open_until = now + rest / 2 + self._chance.uniform(0.0, rest / 2)
            state.opened += 1
            state.trying = False

    def retry(self, version: VersionName, now: float) -> None:
        """Lets the next call try: something has changed, such as a host that is new."""
        state = self._states.get(version)
        if state is not None and state.open_until is not None:
            state.open_until = min(state.open_until, now)

    def forget(self, alive: frozenset[VersionName]) -> None:
        """Drops the circuits of versions that exist no more."""
        for version in [v for v in self._states if v not in alive]:
            del self._states[version]

    def gave_up(self, version: VersionName) -> None:
        """Records an attempt that ended without a verdict: another may try in its place."""
        state = self._states.get(version)
        if state is not None:
            state.trying = False
