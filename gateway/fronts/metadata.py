"""What of a caller's metadata goes on to hosts, and what an answer says of itself."""

import itertools
import os
from collections.abc import Iterable

from gateway.call import Answer, Metadata
from modelyard.errors import InvalidArgument
from modelyard.metadata import ATTEMPT, REQUEST_ID, SERVED_BY, TARGET

# Belongs to one hop, or is ours to say.
_OURS = frozenset({"user-agent", "content-type", "te", REQUEST_ID, TARGET, SERVED_BY, ATTEMPT})

_prefix = os.urandom(6).hex()
_count = itertools.count(1)


def make_request_id() -> str:
    """An identifier that no other call has: the process's random prefix and a count."""
    return f"{_prefix}-{next(_count):x}"


def split(received: Iterable[tuple[str, str | bytes]]) -> tuple[Metadata, str]:
    """What of a caller's metadata hosts should see, and what the caller calls the request.

    The name is "" where it has none. Raises:
        InvalidArgument: A value is not printable ASCII, which some next hop would not take.
    """
    request_id = ""
    passed: list[tuple[str, str | bytes]] = []
    for key, value in received:
        if isinstance(value, str) and not (value.isascii() and value.isprintable()):
            raise InvalidArgument(f"metadata {key!r}: not printable ASCII", field=key)
        if key == REQUEST_ID:
            request_id = value if isinstance(value, str) else ""
        elif key not in _OURS and not key.startswith("grpc-"):
            passed.append((key, value))
    return tuple(passed), request_id


def forwarded(received: Iterable[tuple[str, str | bytes]]) -> tuple[Metadata, str]:
    """The same, with an identifier in any case, which goes to hosts too; raises as `split`."""
    passed, request_id = split(received)
    request_id = request_id or make_request_id()
    return (*passed, (REQUEST_ID, request_id)), request_id


def provenance(answer: Answer, request_id: str) -> Metadata:
    """What an answer says of itself."""
    return (
        (SERVED_BY, str(answer.served_by)),
        (ATTEMPT, answer.attempt),
        (REQUEST_ID, request_id),
    )
