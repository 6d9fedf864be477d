"""A call out of a request's head, whichever front took it."""

from gateway.call import Call, Metadata
from gateway.envelope import Envelope
from gateway.sequences import sequence_of
from modelyard.errors import InvalidArgument


def call_of(
    head: Envelope,
    payload: bytes,
    remaining: float | None,
    metadata: Metadata,
    request_id: str,
    now: float,
) -> Call:
    """What the stack needs of a request.

    Args:
        head: Of the request.
        payload: What goes through to a host.
        remaining: Seconds that the caller gives it; None for no deadline. Its parameter `timeout`
            counts where it is sooner.
        metadata: What hosts should see.
        request_id: The caller's, or one that the front made.
        now: On the clock of every deadline.

    Raises:
        InvalidArgument: It names no model.
    """
    if not head.model:
        raise InvalidArgument("model_name is empty", field="model_name")
    if head.parameters:
        limit = head.parameters.get("timeout")
        if isinstance(limit, int) and limit > 0:
            seconds = limit / 1e6  # The protocol's unit is the microsecond.
            remaining = seconds if remaining is None else min(remaining, seconds)
    deadline = None if remaining is None else now + remaining
    sequence = sequence_of(head.parameters)
    return Call(head.model, head.version, payload, deadline, request_id, metadata, sequence)
