"""How far a reader has come, and what it has met on its way. Kept with what the reader made of it.

The log is written at least once: a writer that lost Redis's answer writes again. It is taken in
exactly once, because the numbers of a writer never go back and have no gaps: a number that is not
above the last one is a copy, and a jump tells how many events were dropped before they were read.
"""

from dataclasses import dataclass, field
from typing import Self

from modelyard.events.v1 import event_pb2

# Each start of a gateway is a new writer. Who has not written for so many others is gone.
MOST_WRITERS = 256


@dataclass(slots=True)
class Progress:
    """How far a reader of one model's events has come.

    Attributes:
        position: The last entry of the stream that was taken in; "" for none.
        writers: The last number of each writer, the latest last.
        taken: Events taken in.
        duplicates: Events that were there twice.
        lost: Events that were dropped before they could be read.
    """

    position: str = ""
    writers: dict[str, int] = field(default_factory=dict)
    taken: int = 0
    duplicates: int = 0
    lost: int = 0

    def take(self, position: str, writer: str, first: int, count: int) -> int:
        """Takes an entry in.

        Args:
            position: The entry's.
            writer: Who wrote its events.
            first: The number of the first of them.
            count: How many there are.

        Returns:
            How many of them, from the first one on, are copies of such as were taken in before.
        """
        self.position = position
        if not count:
            return 0
        last = self.writers.pop(writer, None)
        copies, end = 0, first + count - 1
        # Of a writer that is new here nobody knows what it wrote before this reader began.
        if last is not None:
            copies = min(max(last - first + 1, 0), count)
            self.lost += max(first - last - 1, 0)
            end = max(last, end)
        self.writers[writer] = end
        if len(self.writers) > MOST_WRITERS:
            del self.writers[next(iter(self.writers))]
        self.duplicates += copies
        self.taken += count - copies
        return copies

    def to_proto(self) -> event_pb2.Progress:
        """To protobuf, which keeps no order of the writers; that costs nothing."""
        return event_pb2.Progress(
            position=self.position,
            writers=self.writers,
            taken=self.taken,
            duplicates=self.duplicates,
            lost=self.lost,
        )

    @classmethod
    def from_proto(cls, message: event_pb2.Progress) -> Self:
        """From protobuf."""
        return cls(
            message.position,
            dict(message.writers),
            message.taken,
            message.duplicates,
            message.lost,
        )
