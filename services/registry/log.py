"""Where changes are kept: one log, in one order, that many may read and only one may extend."""

from collections.abc import AsyncIterator
from typing import Protocol

from modelyard.catalog import Change


class Conflict(Exception):
    """Another writer made the next change first."""


class ChangeLog(Protocol):
    """The log of all changes. Every method raises StoreUnavailable when the store is away."""

    async def append(self, change: Change) -> None:
        """Makes a change durable, if it is the next one.

        Raises:
            Conflict: A change of this revision is there already.
        """
        ...

    async def read(self, after: int) -> list[Change]:
        """The changes after a revision, in order."""
        ...

    def tail(self, after: int) -> AsyncIterator[Change]:
        """The changes after a revision, and then each one as it comes."""
        ...
