"""Decides every change: from the catalogue and a wish to an event, or to an error. Pure.

None means that what is wished for is so already.
"""

from dataclasses import replace

from modelyard.catalog import (
    Catalog,
    Event,
    Host,
    HostState,
    LabelMoved,
    LabelRemoved,
    LabelRolledBack,
    Route,
    RouteRemoved,
    RouteReplaced,
    Version,
    VersionDeleted,
    VersionLoaded,
    VersionRegistered,
    VersionUnloaded,
)
from modelyard.catalog.check import check
from modelyard.catalog.hosts import CALLERS, POOLS, SHADOW
from modelyard.errors import (
    InvalidArgument,
    InvalidName,
    NoHistory,
    StaleEtag,
    VersionInUse,
)
from modelyard.names import LIVE, PREVIOUS, LabelName, VersionName

# The etag of what is not there yet.
ABSENT = "0"

_HOLDING = (HostState.LOADING, HostState.SERVING, HostState.DRAINING)


def existing(catalog: Catalog, model: str, digest: str, golden: str) -> Version | None:
    """The newest version of a model with the same files and the same golden samples."""
    held = catalog.models.get(model)
    if held is None:
        return None
    for number in sorted(held.versions, reverse=True):
        version = held.versions[number]
        proved = version.golden.digest if version.golden else ""
        if (version.digest, proved) == (digest, golden):
            return version
    return None


def register(catalog: Catalog, version: Version, allow_duplicate: bool) -> Event | None:
    """Makes a version the next one of its model; `version.name.number` is not looked at."""
    model = version.name.model
    golden = version.golden.digest if version.golden else ""
    if not allow_duplicate and existing(catalog, model, version.digest, golden):
        return None
    held = catalog.models.get(model)
    number = held.last_number + 1 if held else 1
    return VersionRegistered(replace(version, name=VersionName(model, number)))


def delete(catalog: Catalog, name: VersionName, hosts: tuple[Host, ...]) -> Event:
    """Deletes a version that nothing holds; raises VersionInUse or NotFound."""
    version = catalog.version(name)
    model = catalog.model(name.model)
    labels = sorted(la.name for la in model.labels.values() if la.version == name.number)
    route = catalog.routes.get(name.model)
    holders = [f"label {label}" for label in labels]
    if route and any(target.version == name.number for target in route.targets()):
        holders.append("the route")
    if version.shadowed:
        holders.append("an evaluation")
    holders += [f"host {h.id}" for h in hosts if h.version == name and h.state in _HOLDING]
    if holders:
        raise VersionInUse(
            f"{name} is held by {', '.join(holders)}", version=str(name), held_by=holders[0]
        )
    return VersionDeleted(name)


def load(catalog: Catalog, name: VersionName, pool: str = CALLERS) -> Event | None:
    """Asks for hosts of a version; raises NotFound, or InvalidArgument for an unknown pool."""
    return None if _is_loaded(catalog, name, pool) else VersionLoaded(name, pool)


def unload(catalog: Catalog, name: VersionName, pool: str = CALLERS) -> Event | None:
    """Takes `load` back; raises NotFound, or InvalidArgument for an unknown pool."""
    return VersionUnloaded(name, pool) if _is_loaded(catalog, name, pool) else None


def _is_loaded(catalog: Catalog, name: VersionName, pool: str) -> bool:
    if pool not in POOLS:
        raise InvalidArgument(f"pool {pool!r}: empty, or {SHADOW!r}", field="pool")
    version = catalog.version(name)
    return version.shadowed if pool == SHADOW else version.loaded


def move(catalog: Catalog, name: LabelName, number: int, etag: str) -> Event | None:
    """Points a label at a version; raises NotFound, StaleEtag, or InvalidName for `previous`."""
    _not_reserved(name)
    catalog.version(VersionName(name.model, number))
    label = catalog.model(name.model).labels.get(name.label)
    _check_etag(str(name), etag, label.etag if label else ABSENT)
    if label is not None and label.version == number:
        return None
    return LabelMoved(name.model, name.label, number)


def back(catalog: Catalog, name: LabelName) -> int:
    """The number that a label would go back to; raises NotFound or NoHistory."""
    earlier = catalog.label(name.model, name.label).earlier
    if not earlier:
        raise NoHistory(f"{name} points at no earlier version", label=name.label)
    return earlier[0]


def roll_back(catalog: Catalog, name: LabelName, etag: str) -> Event:
    """Points a label back; raises NotFound, NoHistory, StaleEtag."""
    _not_reserved(name)
    _check_etag(str(name), etag, catalog.label(name.model, name.label).etag)
    return LabelRolledBack(name.model, name.label, back(catalog, name))


def remove(catalog: Catalog, name: LabelName, etag: str) -> Event:
    """Removes a label; raises NotFound, StaleEtag, VersionInUse where a route names it."""
    _not_reserved(name)
    _check_etag(str(name), etag, catalog.label(name.model, name.label).etag)
    route = catalog.routes.get(name.model)
    if route and name.label != LIVE and any(t.label == name.label for t in route.targets()):
        raise VersionInUse(f"the route of {name.model} names {name}", held_by="the route")
    return LabelRemoved(name.model, name.label)


def replace_route(catalog: Catalog, route: Route, etag: str) -> Event:
    """Sets a route; raises InvalidRoute naming the field, NotFound, StaleEtag."""
    catalog.model(route.model)
    current = catalog.routes.get(route.model)
    if etag:
        _check_etag(f"models/{route.model}/route", etag, current.etag if current else ABSENT)
    check(catalog, route)
    return RouteReplaced(route)


def remove_route(catalog: Catalog, model: str, etag: str) -> Event | None:
    """Removes a route; raises ModelNotFound, StaleEtag."""
    catalog.model(model)
    current = catalog.routes.get(model)
    if etag:
        _check_etag(f"models/{model}/route", etag, current.etag if current else ABSENT)
    return RouteRemoved(model) if current else None


def _not_reserved(name: LabelName) -> None:
    if name.label == PREVIOUS:
        raise InvalidName(f"{name} follows {LIVE!r} by itself and is not moved", field="name")


def _check_etag(name: str, given: str, current: str) -> None:
    if given and given != current:
        raise StaleEtag(
            f"{name} has the etag {current!r} now, not {given!r}", etag=current, name=name
        )
