"""What a host's status means to a race, whichever lane carried it."""

import math
from collections.abc import Iterable

from modelyard.errors import ModelyardError
from modelyard.status import from_parts

PUSHBACK = "grpc-retry-pushback-ms"
# A longer number is longer than any call waits.
_DIGITS = 12


def failure(code: int, message: str, trailing: Iterable[tuple[str, str | bytes]]) -> ModelyardError:
    """The error, with how long the host wants to pass before a retry."""
    trailing = tuple(trailing)
    error = from_parts(code, message, trailing)
    error.pushback = _pushback(trailing)
    return error


def _pushback(trailing: Iterable[tuple[str, str | bytes]]) -> float | None:
    """Seconds before a retry (gRFC A6); negative or no number: for ever."""
    for key, value in trailing:
        if key == PUSHBACK:
            text = value if isinstance(value, str) else value.decode(errors="replace")
            known = text.isascii() and text.isdigit() and len(text) <= _DIGITS
            return int(text) / 1e3 if known else math.inf
    return None
