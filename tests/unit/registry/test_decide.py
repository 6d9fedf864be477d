"""The registry's decisions, by random histories: whatever is asked, these hold."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.catalog import Catalog, Change, Event, File, Host, HostState, Signature, Version
from modelyard.catalog.convert import change_from, change_to, snapshot_from, snapshot_to
from modelyard.errors import (
    InvalidName,
    ModelyardError,
    NoHistory,
    StaleEtag,
    VersionInUse,
    VersionNotFound,
)
from modelyard.names import LabelName, VersionName
from services.registry import decide

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIVE, CANARY = LabelName("m", "live"), LabelName("m", "canary")


def draft(digest: str = "a") -> Version:
    files = (File("model.onnx", f"sha256:{digest * 64}", 1),)
    return Version(VersionName("m", 0), files[0].digest, files, Signature(), NOW)


def applied(catalog: Catalog, event: Event | None) -> Catalog:
    if event is None:
        return catalog
    return catalog.apply(Change(catalog.revision + 1, NOW, event))


def with_versions(count: int) -> Catalog:
    catalog = Catalog()
    for _ in range(count):
        catalog = applied(catalog, decide.register(catalog, draft(), allow_duplicate=True))
    return catalog


def moved(catalog: Catalog, name: LabelName, *numbers: int) -> Catalog:
    for number in numbers:
        catalog = applied(catalog, decide.move(catalog, name, number, ""))
    return catalog


def test_the_same_files_are_the_same_version_unless_asked_otherwise() -> None:
    catalog = with_versions(1)
    assert decide.register(catalog, draft(), allow_duplicate=False) is None
    assert decide.register(catalog, draft("b"), allow_duplicate=False) is not None
    assert decide.register(catalog, draft(), allow_duplicate=True) is not None


def test_previous_follows_live_and_nobody_moves_it() -> None:
    catalog = moved(with_versions(3), LIVE, 1, 2, 3)
    assert catalog.label("m", "previous").version == 2
    with pytest.raises(InvalidName):
        decide.move(catalog, LabelName("m", "previous"), 1, "")


def test_rolling_back_goes_further_back_each_time() -> None:
    catalog = moved(with_versions(3), LIVE, 1, 2, 3)
    for number in (2, 1):
        catalog = applied(catalog, decide.roll_back(catalog, LIVE, ""))
        assert catalog.label("m", "live").version == number
    with pytest.raises(NoHistory):
        decide.roll_back(catalog, LIVE, "")


def test_a_stale_etag_is_refused() -> None:
    catalog = moved(with_versions(2), LIVE, 1)
    old = catalog.label("m", "live").etag
    catalog = moved(catalog, LIVE, 2)
    with pytest.raises(StaleEtag) as caught:
        decide.move(catalog, LIVE, 1, old)
    assert caught.value.metadata["etag"] == catalog.label("m", "live").etag
    with pytest.raises(StaleEtag):
        decide.move(catalog, LIVE, 1, "0")
    assert decide.move(catalog, CANARY, 1, "0") is not None


def test_what_is_held_is_not_deleted() -> None:
    catalog = moved(with_versions(3), LIVE, 1)
    with pytest.raises(VersionInUse, match="label live"):
        decide.delete(catalog, VersionName("m", 1), ())
    serving = Host("h1", VersionName("m", 2), HostState.SERVING)
    with pytest.raises(VersionInUse, match="host h1"):
        decide.delete(catalog, VersionName("m", 2), (serving,))
    assert decide.delete(catalog, VersionName("m", 3), (serving,)) is not None
    with pytest.raises(VersionNotFound):
        decide.delete(catalog, VersionName("m", 9), ())


commands = st.lists(
    st.one_of(
        st.tuples(st.just("register"), st.sampled_from("abc")),
        st.tuples(st.sampled_from(["delete", "load", "unload"]), st.integers(1, 6)),
        st.tuples(st.sampled_from(["live", "canary"]), st.integers(1, 6)),
        st.tuples(st.sampled_from(["back", "remove"]), st.sampled_from([LIVE, CANARY])),
    ),
    max_size=40,
)


def decided(catalog: Catalog, command: tuple[str, object]) -> Event | None:
    match command:
        case "register", str(digest):
            return decide.register(catalog, draft(digest), allow_duplicate=True)
        case "delete", int(number):
            return decide.delete(catalog, VersionName("m", number), ())
        case "load", int(number):
            return decide.load(catalog, VersionName("m", number))
        case "unload", int(number):
            return decide.unload(catalog, VersionName("m", number))
        case str(label), int(number):
            return decide.move(catalog, LabelName("m", label), number, "")
        case "back", LabelName() as name:
            return decide.roll_back(catalog, name, "")
        case "remove", LabelName() as name:
            return decide.remove(catalog, name, "")
    raise AssertionError(command)


@settings(max_examples=200)
@given(commands)
def test_any_history(history: list[tuple[str, object]]) -> None:
    catalog, changes = Catalog(), []
    for command in history:
        try:
            event = decided(catalog, command)
        except ModelyardError:
            continue
        if event is not None:
            changes.append(Change(catalog.revision + 1, NOW, event, "me", "why", str(len(changes))))
            catalog = catalog.apply(changes[-1])
        for model in catalog.models.values():
            assert all(la.version in model.versions for la in model.labels.values())
            assert all(set(la.earlier) <= set(model.versions) for la in model.labels.values())
            assert all(la.version not in la.earlier for la in model.labels.values())
            live, previous = model.labels.get("live"), model.labels.get("previous")
            if live is None:
                assert previous is None
            elif previous is not None:
                assert (previous.version, *previous.earlier) == live.earlier
        assert {
            VersionName("m", n.version) for m in catalog.models.values() for n in m.labels.values()
        } <= catalog.wanted()
    replayed = Catalog()
    for change in changes:
        again = change_from(change_to(change))
        assert again == change
        replayed = replayed.apply(again)
    assert replayed == catalog
    assert snapshot_from(snapshot_to(catalog)) == catalog
