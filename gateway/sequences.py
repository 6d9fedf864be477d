"""Sequences: calls that belong together stay on the replica that began them.

The parameters are Triton's: `sequence_id` (a number or a text), `sequence_start`, `sequence_end`.
A host may hold state for them, so they are neither hedged nor tried elsewhere.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from modelyard.errors import SequenceLost
from modelyard.names import VersionName

# A sequence that is not heard of for so long has ended; in seconds.
IDLE = 300.0
MOST = 100_000

Key: TypeAlias = tuple[str, int | str]


@dataclass(frozen=True, slots=True)
class Sequence:
    """What a call says of its sequence."""

    id: int | str
    start: bool
    end: bool


def sequence_of(parameters: Mapping[str, bool | int | str | float] | None) -> Sequence | None:
    """The sequence that a call's parameters speak of; id 0 and "" are none, as in Triton."""
    if not parameters:
        return None
    identity = parameters.get("sequence_id")
    if not isinstance(identity, int | str) or isinstance(identity, bool) or not identity:
        return None
    return Sequence(
        identity,
        parameters.get("sequence_start") is True,
        parameters.get("sequence_end") is True,
    )


@dataclass(slots=True)
class Place:
    """Where a sequence lives."""

    version: VersionName
    host: str
    heard: float


class Sequences:
    """Where each sequence lives. Times are seconds on one clock."""

    def __init__(self) -> None:
        self._places: OrderedDict[Key, Place] = OrderedDict()

    def find(self, model: str, sequence: Sequence, now: float) -> Place | None:
        """Where a sequence lives; None for one that begins with this call.

        Raises:
            SequenceLost: It goes on, and nothing is known of its beginning.
        """
        key = (model, sequence.id)
        if sequence.start:
            self._places.pop(key, None)
            return None
        place = self._places.get(key)
        if place is None or now - place.heard > IDLE:
            raise SequenceLost(
                f"sequence {sequence.id} of '{model}' is not known here:"
                " its first call sets sequence_start",
                model=model,
                sequence=str(sequence.id),
            )
        place.heard = now
        self._places.move_to_end(key)
        return place

    def begin(self, model: str, sequence: Sequence, place: Place) -> None:
        """Writes down where a sequence lives."""
        self._places[(model, sequence.id)] = place
        while self._places and (
            len(self._places) > MOST or place.heard - next(iter(self._places.values())).heard > IDLE
        ):
            self._places.popitem(last=False)

    def end(self, model: str, sequence: Sequence) -> None:
        """Forgets a sequence."""
        self._places.pop((model, sequence.id), None)
