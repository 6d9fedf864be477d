"""What a supervisor takes from the catalogue."""

from datetime import UTC, datetime

from modelyard.catalog import (
    Catalog,
    Change,
    Event,
    File,
    LabelMoved,
    Signature,
    Version,
    VersionLoaded,
    VersionRegistered,
)
from modelyard.names import VersionName
from services.inference.artifacts import Artifact
from services.inference.wants import Wants

NOW = datetime(2030, 1, 1, tzinfo=UTC)
MODEL = File("model.onnx", "sha256:" + "a" * 64, 7)
GOLDEN = File("golden.npz", "sha256:" + "b" * 64, 3)


def after(catalog: Catalog, *events: Event) -> Catalog:
    for event in events:
        catalog = catalog.apply(Change(catalog.revision + 1, NOW, event))
    return catalog


def registered(name: VersionName) -> VersionRegistered:
    return VersionRegistered(Version(name, MODEL.digest, (MODEL,), Signature(), NOW, golden=GOLDEN))


A1, A2, B1 = VersionName("a", 1), VersionName("a", 2), VersionName("b", 1)


def test_nothing_is_known_before_the_catalogue():
    assert Wants(lambda: None)() is None


def test_labelled_and_loaded_versions_with_their_files():
    empty = Catalog()
    catalog = after(empty, registered(A1), registered(A2), registered(B1))
    assert Wants(lambda: empty)() == {}
    assert Wants(lambda: catalog)() == {}
    catalog = after(catalog, LabelMoved("a", "live", 2), VersionLoaded(B1))
    artifact = Artifact(MODEL.digest, (MODEL,), GOLDEN)
    assert Wants(lambda: catalog)() == {A2: artifact, B1: artifact}
    assert Wants(lambda: catalog, ["x*", "b*"])() == {B1: artifact}


def test_it_follows_the_catalogue():
    catalogs = [Catalog(), after(Catalog(), registered(A1), VersionLoaded(A1))]
    wants = Wants(lambda: catalogs[-1])
    first = wants()
    assert first is not None and set(first) == {A1}
    assert wants() is first
    catalogs.append(after(catalogs[-1], registered(A2), VersionLoaded(A2)))
    second = wants()
    assert second is not None and set(second) == {A1, A2}
