"""Begins and stops the evaluations that routes ask for by their shadows."""

import asyncio
from collections.abc import Callable

import structlog

from modelyard.catalog import Catalog
from modelyard.errors import ModelyardError
from modelyard.shadow.v1 import evaluation_pb2
from services.shadow.manager import ACTIVE, Manager
from services.shadow.names import model_of
from services.shadow.standing import ROUTE, Known, Pair, to_start, to_stop

_log = structlog.get_logger(__name__)

_LOOK = 0.2


async def follow_routes(manager: Manager, catalog: Callable[[], Catalog]) -> None:
    """Does what routes ask for, as they change; never returns."""
    while True:
        now = catalog()
        for pair, sample in to_start(now, _known(manager)).items():
            try:
                await manager.start(
                    pair.model,
                    [str(pair.candidate)],
                    str(pair.baseline),
                    evaluation_pb2.Plan(sample=sample),
                    actor=ROUTE,
                    note="the route's shadow",
                    request_id="",
                )
            except ModelyardError as error:
                _log.warning("a route's shadow waits", model=pair.model, error=error.message)
        for name in to_stop(now, _known(manager)):
            await manager.stop(name)
        while catalog() is now:
            await asyncio.sleep(_LOOK)


def _known(manager: Manager) -> list[Known]:
    return [
        Known(
            e.name,
            tuple(Pair(model_of(e.name), number, e.baseline) for number in e.candidates),
            e.state in ACTIVE,
            e.actor == ROUTE,
        )
        for e in manager.evaluations
    ]
