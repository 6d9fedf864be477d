"""What can happen to the catalogue."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from modelyard.catalog.hosts import CALLERS
from modelyard.catalog.model import Version
from modelyard.catalog.route import Route
from modelyard.names import VersionName


@dataclass(frozen=True, slots=True)
class VersionRegistered:
    """A version was registered, and with the first one its model."""

    version: Version


@dataclass(frozen=True, slots=True)
class VersionDeleted:
    """A version was deleted."""

    name: VersionName


@dataclass(frozen=True, slots=True)
class VersionLoaded:
    """Someone asked to load a version, for callers or for a pool of its own."""

    name: VersionName
    pool: str = CALLERS


@dataclass(frozen=True, slots=True)
class VersionUnloaded:
    """Someone asked to unload a version."""

    name: VersionName
    pool: str = CALLERS


@dataclass(frozen=True, slots=True)
class LabelMoved:
    """A label was set or moved forward."""

    model: str
    label: str
    version: int


@dataclass(frozen=True, slots=True)
class LabelRolledBack:
    """A label went back to this version."""

    model: str
    label: str
    version: int


@dataclass(frozen=True, slots=True)
class LabelRemoved:
    """A label was removed."""

    model: str
    label: str


@dataclass(frozen=True, slots=True)
class RouteReplaced:
    """A route was set or replaced."""

    route: Route


@dataclass(frozen=True, slots=True)
class RouteRemoved:
    """A route was removed."""

    model: str


Event: TypeAlias = (
    VersionRegistered
    | VersionDeleted
    | VersionLoaded
    | VersionUnloaded
    | LabelMoved
    | LabelRolledBack
    | LabelRemoved
    | RouteReplaced
    | RouteRemoved
)


@dataclass(frozen=True, slots=True)
class Change:
    """One change, as the log keeps it."""

    revision: int
    time: datetime
    event: Event
    actor: str = ""
    note: str = ""
    request_id: str = ""

    @property
    def model(self) -> str:
        """The model that it is about."""
        match self.event:
            case VersionRegistered(version):
                return version.name.model
            case VersionDeleted(name) | VersionLoaded(name) | VersionUnloaded(name):
                return name.model
            case RouteReplaced(route):
                return route.model
            case LabelMoved() | LabelRolledBack() | LabelRemoved() | RouteRemoved():
                return self.event.model
