"""Evaluations that a route asks for by its shadows. Pure.

A shadow of a route is evaluated against the route's default version, once for each pair of the two:
when a label comes to point at another version, that is another pair. Who wants the same pair again
starts an evaluation by name.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from modelyard.catalog import Catalog
from modelyard.errors import NotFound

# Who asked, of an evaluation that a route asks for.
ROUTE = "route"


@dataclass(frozen=True, slots=True)
class Pair:
    """What is compared."""

    model: str
    candidate: int
    baseline: int


@dataclass(frozen=True, slots=True)
class Known:
    """An evaluation that there is.

    Attributes:
        name: Its name.
        pairs: What it compares.
        active: Whether it has yet to end.
        by_route: Whether a route asked for it.
    """

    name: str
    pairs: tuple[Pair, ...]
    active: bool
    by_route: bool


def wanted(catalog: Catalog) -> dict[Pair, float]:
    """What the routes want compared, and on which share of the calls."""
    found: dict[Pair, float] = {}
    for model, route in catalog.routes.items():
        for shadow in route.shadow:
            try:
                candidate = catalog.pointed_at(model, shadow.target).number
                baseline = catalog.pointed_at(model, route.default).number
            except NotFound:
                continue  # A label that points nowhere yet.
            if candidate != baseline:
                found[Pair(model, candidate, baseline)] = shadow.sample
    return found


def to_start(catalog: Catalog, known: Iterable[Known]) -> dict[Pair, float]:
    """What is wanted and was never begun."""
    begun = {pair for one in known for pair in one.pairs}
    return {pair: sample for pair, sample in wanted(catalog).items() if pair not in begun}


def to_stop(catalog: Catalog, known: Iterable[Known]) -> list[str]:
    """What a route asked for, and no route wants any more."""
    now = wanted(catalog)
    return [
        one.name
        for one in known
        if one.active and one.by_route and not any(pair in now for pair in one.pairs)
    ]
