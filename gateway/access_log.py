"""A line for each call that failed, or for each call; never more than a reader could read."""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from gateway.call import Answer, Call
from modelyard.errors import ModelyardError

_log = structlog.get_logger(__name__)

# Characters of what callers chose, such as a name, that a line holds.
MOST_TEXT = 200
# Lines a second of failed calls; those beyond are counted and told of with the next line.
MOST_A_SECOND = 50


class AccessLog:
    """Tells of calls, with the request id that their caller knows.

    Args:
        which: `none`, `failures` or `all`.
        clock: Seconds, monotonic.
    """

    def __init__(self, which: str, clock: Callable[[], float]) -> None:
        self.all = which == "all"
        self._failures = which != "none"
        self._clock = clock
        self._second = 0
        self._told = 0
        self._untold = 0

    def answered(self, call: Call, answer: Answer, seconds: float) -> None:
        """Tells of a call that was answered."""
        _log.info(
            "answered",
            **_facts(call, seconds),
            served_by=str(answer.served_by),
            attempt=str(answer.attempt),
            attempts=answer.attempts,
        )

    def failed(self, call: Call, error: BaseException, seconds: float) -> None:
        """Tells of a call that failed, unless too many did this second."""
        if not self._failures or not self._may_tell():
            return
        untold, self._untold = self._untold, 0
        reason, why = "CANCELLED", "the caller gave up"
        if isinstance(error, ModelyardError):
            reason, why = error.reason, error.message
        elif not isinstance(error, asyncio.CancelledError):
            reason, why = "INTERNAL", type(error).__name__
        more = {"untold": untold} if untold else {}
        _log.warning("failed", **_facts(call, seconds), reason=reason, why=why[:MOST_TEXT], **more)

    def _may_tell(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._told = second, 0
        if self._told >= MOST_A_SECOND:
            self._untold += 1
            return False
        self._told += 1
        return True


def _facts(call: Call, seconds: float) -> dict[str, Any]:
    return {
        "request_id": call.request_id[:MOST_TEXT],
        "model": call.model[:MOST_TEXT],
        "asked": call.selector[:MOST_TEXT],
        "version": call.target.number if call.target else None,
        "ms": round(seconds * 1e3, 3),
        "bytes": len(call.payload),
    }
