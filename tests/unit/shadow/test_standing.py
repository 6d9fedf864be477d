"""What routes want evaluated."""

from datetime import UTC, datetime

from modelyard.catalog import Catalog, Label, Model, Route, Shadow, Signature, Target, Version
from modelyard.catalog.model import frozen
from modelyard.names import VersionName
from services.shadow.standing import Known, Pair, to_start, to_stop, wanted

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def catalog(*shadows, candidate=2):
    names = [VersionName("m", n) for n in (1, 2, 3)]
    versions = {v.number: Version(v, "sha256:0", (), Signature(), NOW) for v in names}
    points = {"live": 1, "candidate": candidate}
    labels = {name: Label(name, number, 1, NOW) for name, number in points.items()}
    route = Route("m", shadow=tuple(shadows))
    models = frozen({"m": Model("m", NOW, frozen(versions), frozen(labels))})
    return Catalog(1, models, frozen({"m": route}))


BY_LABEL = Shadow(Target(label="candidate"), 0.1)


def known(number, *, active=True, by_route=True):
    return Known("e", (Pair("m", number, 1),), active, by_route)


def test_shadows_are_compared_with_the_default_version():
    held = catalog(BY_LABEL, Shadow(Target(version=3), 0.5), Shadow(Target(version=1), 1.0))
    assert wanted(held) == {Pair("m", 2, 1): 0.1, Pair("m", 3, 1): 0.5}
    assert wanted(catalog(Shadow(Target(label="nobody"), 1.0))) == {}


def test_a_pair_is_begun_once_whoever_began_it():
    assert to_start(catalog(BY_LABEL), []) == {Pair("m", 2, 1): 0.1}
    for one in (known(2), known(2, active=False), known(2, by_route=False)):
        assert to_start(catalog(BY_LABEL), [one]) == {}
    assert to_start(catalog(BY_LABEL, candidate=3), [known(2)]) == {Pair("m", 3, 1): 0.1}


def test_what_no_route_wants_any_more_is_stopped_if_a_route_began_it():
    assert to_stop(catalog(BY_LABEL), [known(2)]) == []
    assert to_stop(catalog(), [known(2)]) == ["e"]
    assert to_stop(catalog(BY_LABEL, candidate=3), [known(2)]) == ["e"]
    assert to_stop(catalog(), [known(2, by_route=False)]) == []
    assert to_stop(catalog(), [known(2, active=False)]) == []
