"""What became of the requests of an evaluation. Pure."""

from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(slots=True)
class Tally:
    """Counts; `protos/modelyard/shadow/v1/report.proto` says what each is.

    Attributes:
        newest: When the newest request that was taken in had arrived, in Unix seconds.
    """

    seen: int = 0
    replayed: int = 0
    passed_over: int = 0
    unpaired: int = 0
    repeated: int = 0
    labelled: int = 0
    unmatched: int = 0
    newest: float = 0.0

    def state(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return asdict(self)

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Self:
        """From `state`."""
        return cls(**state)
