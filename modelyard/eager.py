"""Coroutines that are begun by hand: one that never waits costs no task."""

from collections.abc import Coroutine
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Begun(Coroutine[Any, Any, T]):
    """The rest of a coroutine that was begun by `send(None)`, and waits: for a task to go on with.

    An object, and no coroutine around the other one: of that, a task which is cancelled before its
    first step would run nothing, and so what was begun would never hear of it.

    Args:
        work: The coroutine.
        waited_for: What `send` gave.
    """

    __slots__ = ("_told", "_waited_for", "_work")

    def __init__(self, work: Coroutine[Any, Any, T], waited_for: Any) -> None:
        self._work = work
        self._waited_for = waited_for
        self._told = False

    def send(self, value: Any) -> Any:
        """Tells first what is waited for, then goes on."""
        if self._told:
            return self._work.send(value)
        self._told = True
        return self._waited_for

    def throw(self, *error: Any) -> Any:
        """Throws into the coroutine."""
        self._told = True
        return self._work.throw(*error)

    def close(self) -> None:
        """Closes the coroutine."""
        self._work.close()

    def __await__(self) -> Self:
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self.send(None)
