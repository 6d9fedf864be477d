"""What is registered and who serves it: shared by all who follow the registry."""

from modelyard.catalog.catalog import Catalog
from modelyard.catalog.changes import (
    Change,
    Event,
    LabelMoved,
    LabelRemoved,
    LabelRolledBack,
    RouteRemoved,
    RouteReplaced,
    VersionDeleted,
    VersionLoaded,
    VersionRegistered,
    VersionUnloaded,
)
from modelyard.catalog.hosts import Host, HostState
from modelyard.catalog.model import File, Label, Model, Provenance, Signature, Tensor, Version
from modelyard.catalog.route import (
    Constant,
    Fallback,
    Hedge,
    LastGood,
    Match,
    Rendezvous,
    Route,
    Shadow,
    Share,
    Target,
)

__all__ = [
    "Catalog",
    "Change",
    "Constant",
    "Event",
    "Fallback",
    "File",
    "Hedge",
    "Host",
    "HostState",
    "Label",
    "LabelMoved",
    "LabelRemoved",
    "LabelRolledBack",
    "LastGood",
    "Match",
    "Model",
    "Provenance",
    "Rendezvous",
    "Route",
    "RouteRemoved",
    "RouteReplaced",
    "Shadow",
    "Share",
    "Signature",
    "Target",
    "Tensor",
    "Version",
    "VersionDeleted",
    "VersionLoaded",
    "VersionRegistered",
    "VersionUnloaded",
]
