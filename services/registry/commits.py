"""Makes the change of a request, once, and says from which revision on it holds."""

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

from modelyard.catalog import Change, Event
from modelyard.errors import InvalidArgument
from modelyard.metadata import ACTOR, REVISION
from services.registry.registry import Decision, Registry

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_LONGEST_ACTOR = 1024


async def commit(
    registry: Registry,
    decision: Decision,
    fits: Callable[[Event], bool],
    request: Any,
    context: Context,
) -> Change | None:
    """Makes a request's change and tells the caller the revision from which it holds.

    Raises:
        InvalidArgument: The request's id made a change before, and not one that `fits`.
    """
    change = await registry.commit(
        decision, actor=actor_of(context), note=request.note, request_id=request.request_id
    )
    if change is not None:
        check_made(change, fits, request)
    revision = change.revision if change else registry.catalog.revision
    context.set_trailing_metadata(((REVISION, str(revision)),))
    return change


def check_made(change: Change, fits: Callable[[Event], bool], request: Any) -> None:
    """Raises InvalidArgument where a request's id made another change than it asks for now."""
    if not fits(change.event):
        raise InvalidArgument(
            f"request_id {request.request_id!r} made another change", field="request_id"
        )


def actor_of(context: Context) -> str:
    """Who asks, as far as it says so; its address otherwise."""
    for key, value in context.invocation_metadata() or ():
        if key == ACTOR and isinstance(value, str):
            return value[:_LONGEST_ACTOR]
    return context.peer() or ""
