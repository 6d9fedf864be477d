"""The catalogue: models, versions, labels and routes, as the sum of all changes. Pure.

`Catalog` is a value. `apply` gives the next one and shares all that did not change, so a
reader holds a consistent view for as long as it likes, and a change costs what it touches.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from modelyard.catalog.changes import (
    Change,
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
from modelyard.catalog.hosts import CALLERS, SHADOW
from modelyard.catalog.model import Label, Model, Version, frozen
from modelyard.catalog.route import Route, Target
from modelyard.errors import LabelNotFound, ModelNotFound, VersionNotFound
from modelyard.names import LIVE, PREVIOUS, VersionName, is_version_number


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that is registered, at one revision."""

    revision: int = 0
    models: Mapping[str, Model] = field(default_factory=frozen)
    routes: Mapping[str, Route] = field(default_factory=frozen)

    def model(self, name: str) -> Model:
        """The model of this name; raises ModelNotFound."""
        model = self.models.get(name)
        if model is None:
            raise ModelNotFound(f"Request for unknown model: '{name}' is not found", model=name)
        return model

    def version(self, name: VersionName) -> Version:
        """The version of this name; raises ModelNotFound or VersionNotFound."""
        version = self.model(name.model).versions.get(name.number)
        if version is None:
            raise VersionNotFound(
                f"Request for unknown model: '{name.model}' version {name.number} is not found",
                model=name.model,
                version=str(name.number),
            )
        return version

    def label(self, model: str, label: str) -> Label:
        """The label of this name; raises ModelNotFound or LabelNotFound."""
        found = self.model(model).labels.get(label)
        if found is None:
            raise LabelNotFound(
                f"Request for unknown model: '{model}' version {label} is not found",
                model=model,
                label=label,
            )
        return found

    def resolve(self, model: str, selector: str) -> VersionName:
        """The version that a number, a label, or nothing stands for.

        Raises:
            ModelNotFound, VersionNotFound, LabelNotFound: There is no such thing.
        """
        found = self.models.get(model) or self.model(model)
        if is_version_number(selector):
            return self.version(VersionName(model, int(selector))).name
        if not selector:
            route = self.routes.get(model)
            if route is not None:
                return self.pointed_at(model, route.default)
            selector = LIVE
            if LIVE not in found.labels:
                raise VersionNotFound(
                    f"Request for unknown model: '{model}' has no available versions", model=model
                )
        return found.versions[self.label(model, selector).version].name

    def pointed_at(self, model: str, target: Target) -> VersionName:
        """The version that a route's target stands for now; raises as `resolve`."""
        if target.version:
            return self.version(VersionName(model, target.version)).name
        return VersionName(model, self.label(model, target.label).version)

    def wanted(self, pool: str = CALLERS) -> frozenset[VersionName]:
        """The versions that the hosts of a pool should serve.

        For callers: those that are labelled, named by a route for more than a shadow, or loaded.
        """
        wanted: set[VersionName] = set()
        if pool == SHADOW:
            for model in self.models.values():
                wanted.update(v.name for v in model.versions.values() if v.shadowed)
            return frozenset(wanted)
        for model in self.models.values():
            wanted.update(VersionName(model.name, la.version) for la in model.labels.values())
            wanted.update(v.name for v in model.versions.values() if v.loaded)
            route = self.routes.get(model.name)
            for target in route.answering() if route else ():
                if target.version in model.versions:
                    wanted.add(VersionName(model.name, target.version))
        return frozenset(wanted)

    def apply(self, change: Change) -> "Catalog":
        """The catalogue after the next change.

        Raises:
            ValueError: The change is not the next one: one is missing or came twice.
        """
        if change.revision != self.revision + 1:
            raise ValueError(f"change {change.revision} does not follow {self.revision}")
        models, routes = self.models, self.routes
        match change.event:
            case RouteReplaced(route):
                routes = frozen({**routes, route.model: replace(route, revision=change.revision)})
            case RouteRemoved(name):
                routes = frozen({k: v for k, v in routes.items() if k != name})
            case _:
                model = _changed(models.get(change.model), change)
                models = frozen({**models, model.name: model})
        return Catalog(change.revision, models, routes)


def _changed(model: Model | None, change: Change) -> Model:
    """The model after a change of its own."""
    event = change.event
    if isinstance(event, VersionRegistered):
        version = event.version
        model = model or Model(version.name.model, created=change.time)
        return replace(
            model,
            versions=frozen({**model.versions, version.name.number: version}),
            last_number=version.name.number,
        )
    if model is None:
        raise ValueError(f"change {change.revision} is about a model that was never registered")
    match event:
        case VersionDeleted(name):
            return _without(model, name.number)
        case VersionLoaded(name, pool):
            return _loaded(model, name.number, True, pool)
        case VersionUnloaded(name, pool):
            return _loaded(model, name.number, False, pool)
        case LabelMoved(_, label, number):
            old = model.labels.get(label)
            earlier = () if old is None else (old.version, *old.earlier)
            return _pointed(model, label, number, earlier, change)
        case LabelRolledBack(_, label, number):
            earlier = model.labels[label].earlier
            return _pointed(model, label, number, earlier[earlier.index(number) + 1 :], change)
        case LabelRemoved(_, label):
            gone = {label, PREVIOUS} if label == LIVE else {label}
            labels = {k: v for k, v in model.labels.items() if k not in gone}
            return replace(model, labels=frozen(labels))
    raise AssertionError(f"{event} does not change a model")


def _pointed(
    model: Model, label: str, number: int, earlier: tuple[int, ...], change: Change
) -> Model:
    """The model with a label that points elsewhere; `previous` follows `live`."""
    earlier = tuple(n for n in earlier if n != number)
    labels = dict(model.labels)
    old = labels.get(label)
    labels[label] = Label(label, number, change.revision, change.time, earlier)
    if label == LIVE:
        labels.pop(PREVIOUS, None)
        if earlier:
            labels[PREVIOUS] = Label(
                PREVIOUS, earlier[0], change.revision, change.time, earlier[1:]
            )
    model = replace(model, labels=frozen(labels))
    # From here on labels say whether these are served; a load ahead has done its work.
    for settled in {number} | ({old.version} if old else set()):
        model = _loaded(model, settled, False)
    return model


def _loaded(model: Model, number: int, loaded: bool, pool: str = CALLERS) -> Model:
    version = model.versions[number]
    if pool == SHADOW:
        changed = replace(version, shadowed=loaded)
    else:
        changed = replace(version, loaded=loaded)
    if changed == version:
        return model
    versions = {**model.versions, number: changed}
    return replace(model, versions=frozen(versions))


def _without(model: Model, number: int) -> Model:
    """The model without a version, which no label's past leads back to any more."""
    labels = {
        name: replace(label, earlier=tuple(n for n in label.earlier if n != number))
        for name, label in model.labels.items()
    }
    versions = {k: v for k, v in model.versions.items() if k != number}
    return replace(model, versions=frozen(versions), labels=frozen(labels))
