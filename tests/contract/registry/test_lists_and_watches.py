"""Lists by pages, and watches, of a registry."""

import base64
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from modelyard.registry.v1 import (
    change_pb2,
    model_pb2,
)
from modelyard.registry.v1 import registry_service_pb2 as pb
from modelyard.status import from_rpc_error
from tests.kit.registry_client import PATIENCE, Client, refusal


def pages(method: Any, make: Callable[[str], Any], field: str) -> list[list[Any]]:
    found, token = [], ""
    while True:
        response = method(make(token), timeout=PATIENCE)
        found.append(list(getattr(response, field)))
        token = response.next_page_token
        if not token:
            return found
        assert len(found) < 1000, "the pages never end"


@pytest.fixture(scope="module")
def paged(client: Client, file: model_pb2.File) -> list[str]:
    """Seven models, the first with seven versions; those of other tests lie between them."""
    names = [f"paged-{letter}" for letter in "abcdefg"]
    for name in names + names[:1] * 6:
        client.register(name, file)
    return names


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
def test_pages_hold_every_item_once(client: Client, paged: list[str], size: int) -> None:
    parent = f"models/{paged[0]}"

    models = pages(
        client.registry.ListModels,
        lambda token: pb.ListModelsRequest(page_size=size, page_token=token),
        "models",
    )
    listed = [m.name for page in models for m in page]
    assert listed == sorted(set(listed))
    assert [n for n in listed if n.startswith("models/paged-")] == [f"models/{n}" for n in paged]

    versions = pages(
        client.registry.ListVersions,
        lambda token: pb.ListVersionsRequest(parent=parent, page_size=size, page_token=token),
        "versions",
    )
    assert [v.number for page in versions for v in page] == [7, 6, 5, 4, 3, 2, 1]

    changes = pages(
        client.registry.ListChanges,
        lambda token: pb.ListChangesRequest(parent=parent, page_size=size, page_token=token),
        "changes",
    )
    assert [c for page in changes for c in page] == client.changes(paged[0])[::-1]
    for found in (models, versions, changes):
        assert all(len(page) == size for page in found[:-1])
        assert 0 < len(found[-1]) <= size


def test_a_page_goes_on_where_it_was_when_items_come_and_go(
    client: Client, file: model_pb2.File, model: str
) -> None:
    for _ in range(5):
        client.register(model, file)

    def page(token: str = "") -> Any:
        request = pb.ListVersionsRequest(parent=f"models/{model}", page_size=2, page_token=token)
        return client.registry.ListVersions(request, timeout=PATIENCE)

    first = page()
    assert [v.number for v in first.versions] == [5, 4]
    client.register(model, file)
    for gone in (4, 3):
        client.registry.DeleteVersion(
            pb.DeleteVersionRequest(name=f"models/{model}/versions/{gone}"), timeout=PATIENCE
        )
    second = page(first.next_page_token)
    assert ([v.number for v in second.versions], second.next_page_token) == ([2, 1], "")


@pytest.mark.parametrize(
    "token",
    ["nonsense", "!", "é", "====", base64.urlsafe_b64encode(b"\xff\xfe").decode()],
)
def test_a_page_token_that_was_not_given_is_refused(
    client: Client, file: model_pb2.File, model: str, token: str
) -> None:
    client.register(model, file)
    parent = f"models/{model}"
    for method, request in (
        (client.registry.ListModels, pb.ListModelsRequest(page_token=token)),
        (client.registry.ListVersions, pb.ListVersionsRequest(parent=parent, page_token=token)),
        (client.registry.ListChanges, pb.ListChangesRequest(page_token=token)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            method(request, timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert from_rpc_error(caught.value).reason == "INVALID_PAGE_TOKEN"


def test_a_page_token_is_good_for_its_list_alone(
    client: Client, file: model_pb2.File, model: str
) -> None:
    other = f"{model}-other"
    for name in (model, model, other, other):
        client.register(name, file)
    request = pb.ListVersionsRequest(parent=f"models/{model}", page_size=1)
    token = client.registry.ListVersions(request, timeout=PATIENCE).next_page_token
    elsewhere = pb.ListVersionsRequest(parent=f"models/{other}", page_token=token)
    assert refusal(client.registry.ListVersions, elsewhere).reason == "INVALID_PAGE_TOKEN"
    models = pb.ListModelsRequest(page_token=token)
    assert refusal(client.registry.ListModels, models).reason == "INVALID_PAGE_TOKEN"


def test_a_negative_page_size_names_its_field(client: Client) -> None:
    refused = refusal(client.registry.ListModels, pb.ListModelsRequest(page_size=-1))
    assert (refused.reason, refused.metadata["field"]) == ("INVALID_ARGUMENT", "page_size")


# Watches.


def test_a_watch_goes_on_from_its_revision(
    client: Client, file: model_pb2.File, model: str
) -> None:
    """A watcher is cut off after each few changes; all its pieces are the log, once."""
    client.register(model, file)
    client.register(model, file)
    start = client.registry.Watch(pb.WatchRequest(), timeout=PATIENCE)
    seen = next(start).snapshot.revision
    start.cancel()
    heard: list[change_pb2.Change] = []
    for round_ in range(6):
        # Two while nobody watches, then one while somebody does.
        client.move(model, "live", 1 + round_ % 2)
        client.move(model, "canary", 1 + round_ % 2)
        watch = client.registry.Watch(pb.WatchRequest(revision=seen), timeout=PATIENCE)
        heard.append(next(watch).change)
        client.move(model, "blue", 1 + round_ % 2)
        heard += [next(watch).change for _ in range(2)]
        watch.cancel()
        seen = heard[-1].revision
    revisions = [change.revision for change in heard]
    assert revisions == list(range(revisions[0], revisions[0] + 18))
    assert heard == client.changes(model)[-18:]


def test_a_watch_from_the_newest_revision_hears_only_what_is_new(
    client: Client, file: model_pb2.File, model: str
) -> None:
    client.register(model, file)
    newest = client.changes(model)[-1].revision
    watch = client.registry.Watch(pb.WatchRequest(revision=newest), timeout=PATIENCE)
    assert next(watch).heartbeat_revision == newest, "a quiet watch gives signs of life"
    client.move(model, "live", 1)
    events = (event for event in watch if event.WhichOneof("event") == "change")
    assert next(events).change.revision == newest + 1
    watch.cancel()


@pytest.mark.parametrize("beyond", ["too new", "negative"])
def test_a_watch_from_a_revision_that_never_was_is_out_of_range(
    client: Client, file: model_pb2.File, model: str, beyond: str
) -> None:
    client.register(model, file)
    newest = client.changes(model)[-1].revision
    revision = newest + 1 if beyond == "too new" else -1
    watch = client.registry.Watch(pb.WatchRequest(revision=revision), timeout=PATIENCE)
    with pytest.raises(grpc.RpcError) as caught:
        next(watch)
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
    refused = from_rpc_error(caught.value)
    assert (refused.reason, refused.metadata["revision"]) == ("OUT_OF_RANGE", str(newest))
