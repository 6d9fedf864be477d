"""Changes of a registry: registrations, labels, deletions; asked for again, stale, refused."""

import importlib.util
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelyard.metadata import REVISION
from modelyard.registry.v1 import (
    host_pb2,
    model_pb2,
    route_service_pb2,
)
from modelyard.registry.v1 import registry_service_pb2 as pb
from modelyard.status import from_rpc_error
from tests.kit.registry import RedisProcess, start_registry
from tests.kit.registry_client import PATIENCE, Client, connect, digest_of, refusal
from tests.kit.scale import scale


def test_a_registration_asked_for_again_is_the_same(
    client: Client, file: model_pb2.File, model: str
) -> None:
    request = pb.RegisterVersionRequest(
        model=model, files=[file], allow_duplicate=True, request_id=str(uuid.uuid4())
    )
    first = client.registry.RegisterVersion(request, timeout=PATIENCE)
    assert (first.version.number, first.created) == (1, True)
    assert client.registry.RegisterVersion(request, timeout=PATIENCE) == first
    assert len(client.changes(model)) == 1


def test_a_source_url_is_fetched_and_checked(client: Client, folder: Path, model: str) -> None:
    source = scale(folder, 3.0)
    digest = digest_of(source.read_bytes())

    def request(**given: Any) -> pb.RegisterVersionRequest:
        return pb.RegisterVersionRequest(model=model, **{"source_url": source.as_uri(), **given})

    wrong = refusal(client.registry.RegisterVersion, request(source_digest=digest_of(b"another")))
    assert (wrong.reason, wrong.metadata["found"]) == ("INVALID_ARTIFACT", digest)
    assert client.committed(digest) == (0, False), "what was not asked for is not kept"

    version = client.registry.RegisterVersion(
        request(source_digest=digest), timeout=PATIENCE
    ).version
    assert [(f.path, f.digest) for f in version.files] == [("model.onnx", digest)]
    assert client.download(digest) == source.read_bytes()


@pytest.mark.parametrize("name", ["none-here.onnx", "."])
def test_a_source_url_that_leads_to_no_file_is_refused(
    client: Client, folder: Path, model: str, name: str
) -> None:
    request = pb.RegisterVersionRequest(model=model, source_url=f"file://{folder}/{name}")
    refused = refusal(client.registry.RegisterVersion, request)
    assert (refused.reason, "no such file" in refused.message) == ("INVALID_ARTIFACT", True)


def test_only_the_named_schemes_are_fetched(
    client: Client, redis: RedisProcess, folder: Path, model: str
) -> None:
    secret = folder / "secret"
    secret.write_bytes(b"of this machine")
    request = pb.RegisterVersionRequest(model=model, source_url="s3://bucket/model.onnx")
    refused = refusal(client.registry.RegisterVersion, request)
    assert (refused.reason, refused.metadata["field"]) == ("INVALID_ARGUMENT", "source_url")
    # Unless it is told to, a registry reads no file of its own machine, however it is named.
    with (
        start_registry(redis, folder / "strict") as process,
        connect(process.address) as strict,
    ):
        for url in (secret.as_uri(), str(secret), f"FILE://{secret}", f"local://{secret}"):
            request = pb.RegisterVersionRequest(model=model, source_url=url)
            refused = refusal(strict.registry.RegisterVersion, request)
            assert (refused.reason, refused.metadata["field"]) == (
                "INVALID_ARGUMENT",
                "source_url",
            ), url
        assert strict.committed(digest_of(secret.read_bytes())) == (0, False)
        if importlib.util.find_spec("s3fs") is None:
            request = pb.RegisterVersionRequest(model=model, source_url="s3://bucket/model.onnx")
            refused = refusal(strict.registry.RegisterVersion, request)
            # Who runs the registry can mend that, and reads how.
            assert (refused.reason, "s3fs" in refused.message) == ("FAILED_PRECONDITION", True)


# Labels.


def test_a_move_asked_for_again_answers_as_the_first_time(
    client: Client, file: model_pb2.File, model: str
) -> None:
    client.register(model, file)
    client.register(model, file)
    request_id = str(uuid.uuid4())
    first = client.move(model, "live", 1, request_id=request_id)
    assert client.move(model, "live", 1, request_id=request_id) == first
    # An answer that was lost may be asked for long after, when others have moved the label on.
    client.move(model, "live", 2)
    assert client.move(model, "live", 1, request_id=request_id) == first
    client.registry.RemoveLabel(
        pb.RemoveLabelRequest(name=f"models/{model}/labels/live"), timeout=PATIENCE
    )
    assert client.move(model, "live", 1, request_id=request_id) == first
    kinds = [change.WhichOneof("event") for change in client.changes(model)]
    assert kinds == ["version_registered"] * 2 + ["label_moved"] * 2 + ["label_removed"]


def test_a_request_id_is_good_for_one_change(
    client: Client, file: model_pb2.File, model: str
) -> None:
    """An acknowledgement of a change that was never made would be a lie."""
    client.register(model, file)
    client.register(model, file)
    request_id = str(uuid.uuid4())
    client.move(model, "live", 1, request_id=request_id)
    others: list[tuple[Any, Any]] = [
        (
            client.registry.RegisterVersion,
            pb.RegisterVersionRequest(model=model, files=[file], request_id=request_id),
        ),
        (
            client.registry.MoveLabel,
            pb.MoveLabelRequest(
                name=f"models/{model}/labels/canary", version=2, request_id=request_id
            ),
        ),
        (
            client.registry.MoveLabel,
            pb.MoveLabelRequest(
                name=f"models/{model}/labels/live", version=2, request_id=request_id
            ),
        ),
        (
            client.registry.DeleteVersion,
            pb.DeleteVersionRequest(name=f"models/{model}/versions/2", request_id=request_id),
        ),
        (
            client.routes.RemoveRoute,
            route_service_pb2.RemoveRouteRequest(
                name=f"models/{model}/route", request_id=request_id
            ),
        ),
    ]
    for method, request in others:
        refused = refusal(method, request)
        assert (refused.reason, refused.metadata["field"]) == ("INVALID_ARGUMENT", "request_id")
    assert len(client.changes(model)) == 3


def test_a_stale_etag_aborts(client: Client, file: model_pb2.File, model: str) -> None:
    for _ in range(3):
        client.register(model, file)
    name = f"models/{model}/labels/live"
    first = client.move(model, "live", 1, etag="0")
    second = client.move(model, "live", 2, etag=first.etag)
    stale: list[tuple[Any, Any]] = [
        (client.registry.MoveLabel, pb.MoveLabelRequest(name=name, version=3, etag=first.etag)),
        (client.registry.MoveLabel, pb.MoveLabelRequest(name=name, version=3, etag="0")),
        (client.registry.RollBackLabel, pb.RollBackLabelRequest(name=name, etag=first.etag)),
        (client.registry.RemoveLabel, pb.RemoveLabelRequest(name=name, etag=first.etag)),
    ]
    for method, request in stale:
        with pytest.raises(grpc.RpcError) as caught:
            method(request, timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.ABORTED
        refused = from_rpc_error(caught.value)
        assert (refused.reason, refused.metadata["etag"]) == ("STALE_ETAG", second.etag)
    assert client.move(model, "live", 3, etag=second.etag).version == 3


def test_a_change_tells_the_revision_from_which_it_holds(
    client: Client, file: model_pb2.File, model: str
) -> None:
    client.register(model, file)
    move = pb.MoveLabelRequest(name=f"models/{model}/labels/live", version=1, note="why not")
    for _ in range(2):  # The second time there is nothing to change.
        _, call = client.registry.MoveLabel.with_call(move, timeout=PATIENCE)
        revision = int(dict(call.trailing_metadata())[REVISION])
        last = client.changes(model)[-1]
        assert (last.revision, last.note) == (revision, "why not")


# Deletion.


def test_a_version_is_deleted_once_nothing_holds_it(
    client: Client, file: model_pb2.File, model: str
) -> None:
    for _ in range(2):
        client.register(model, file)
    name = f"models/{model}/versions/1"
    delete = pb.DeleteVersionRequest(name=name, request_id=str(uuid.uuid4()))
    client.move(model, "canary", 1)
    client.report(
        model, host_pb2.Host(id=f"{model}-a", version=name, state=host_pb2.Host.STATE_SERVING)
    )

    held = refusal(client.registry.DeleteVersion, delete)
    assert (held.reason, held.metadata["held_by"]) == ("VERSION_IN_USE", "label canary")
    client.move(model, "canary", 2, immediate=True)
    held = refusal(client.registry.DeleteVersion, delete)
    assert (held.reason, held.metadata["held_by"]) == ("VERSION_IN_USE", f"host {model}-a")
    client.report(model)
    client.registry.DeleteVersion(delete, timeout=PATIENCE)

    get = pb.GetVersionRequest(name=name)
    assert refusal(client.registry.GetVersion, get).reason == "VERSION_NOT_FOUND"
    client.registry.DeleteVersion(delete, timeout=PATIENCE)
    again = pb.DeleteVersionRequest(name=name)
    assert refusal(client.registry.DeleteVersion, again).reason == "VERSION_NOT_FOUND"
    assert client.register(model, file) == 3, "a number is never given again"
