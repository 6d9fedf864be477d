"""Which of several gateway processes one is."""

from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any


@dataclass(frozen=True, slots=True)
class Group:
    """The processes behind one port, as one of them is told.

    Attributes:
        index: Its own place.
        sockets: Where each listens, itself included.
    """

    index: int
    sockets: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of what all may do together, the part of one."""
        return 1.0 / len(self.sockets)

    def owner(self, model: str, sequence: int | str) -> int:
        """The place of the process that keeps a sequence: the same, whichever computes it."""
        # 7 and "7" are two sequences.
        digest = blake2b(f"{model}\0{sequence!r}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % len(self.sockets)

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, told: dict[str, Any]) -> "Group":
        """What `told` gave."""
        return cls(told["index"], tuple(told["sockets"]))
