"""What a registry promises on the wire: uploads, replays, pages, watches, etags, leases."""

import base64
import hashlib
import importlib.util
import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from modelyard.errors import ModelyardError
from modelyard.gateway.v1 import route_pb2
from modelyard.metadata import REVISION
from modelyard.registry.v1 import artifact_service_pb2 as artifacts
from modelyard.registry.v1 import (
    artifact_service_pb2_grpc,
    change_pb2,
    host_pb2,
    host_service_pb2,
    host_service_pb2_grpc,
    model_pb2,
    registry_service_pb2_grpc,
    route_service_pb2,
    route_service_pb2_grpc,
)
from modelyard.registry.v1 import registry_service_pb2 as pb
from modelyard.status import from_rpc_error
from tests.kit.registry import RedisProcess, start_redis, start_registry
from tests.kit.scale import scale

# So long may a step take on a machine that does much else; none is meant to.
PATIENCE = 60.0


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def refusal(method: Any, request: Any) -> ModelyardError:
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=PATIENCE)
    return from_rpc_error(caught.value)


class Client:
    """A registry's services, and the few calls that every test needs."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self.artifacts = artifact_service_pb2_grpc.ArtifactServiceStub(channel)
        self.hosts = host_service_pb2_grpc.HostServiceStub(channel)
        self.routes = route_service_pb2_grpc.RouteServiceStub(channel)

    def upload(self, content: bytes, path: str = "model.onnx") -> model_pb2.File:
        digest = digest_of(content)
        request = artifacts.WriteBlobRequest(digest=digest, size_bytes=len(content), data=content)
        self.artifacts.WriteBlob(iter([request]), timeout=PATIENCE)
        return model_pb2.File(path=path, digest=digest)

    def committed(self, digest: str) -> tuple[int, bool]:
        held = self.artifacts.GetBlob(artifacts.GetBlobRequest(digest=digest), timeout=PATIENCE)
        return held.committed_bytes, held.complete

    def download(self, digest: str) -> bytes:
        request = artifacts.ReadBlobRequest(digest=digest)
        return b"".join(p.data for p in self.artifacts.ReadBlob(request, timeout=PATIENCE))

    def register(self, model: str, file: model_pb2.File) -> int:
        """One more version; gives its number."""
        request = pb.RegisterVersionRequest(model=model, files=[file], allow_duplicate=True)
        return self.registry.RegisterVersion(request, timeout=PATIENCE).version.number

    def move(self, model: str, label: str, version: int, **given: Any) -> model_pb2.Label:
        request = pb.MoveLabelRequest(
            name=f"models/{model}/labels/{label}", version=version, **given
        )
        return self.registry.MoveLabel(request, timeout=PATIENCE).label

    def changes(self, model: str) -> list[change_pb2.Change]:
        """The oldest first."""
        request = pb.ListChangesRequest(parent=f"models/{model}", page_size=1000)
        return list(self.registry.ListChanges(request, timeout=PATIENCE).changes)[::-1]

    def report(self, supervisor: str, *hosts: host_pb2.Host, ttl: float = 300.0) -> None:
        span = Duration()
        span.FromTimedelta(timedelta(seconds=ttl))
        request = host_service_pb2.ReportHostsRequest(supervisor=supervisor, hosts=hosts, ttl=span)
        self.hosts.ReportHosts(request, timeout=PATIENCE)

    def hosts_of(self, parent: str) -> list[str]:
        request = host_service_pb2.ListHostsRequest(parent=parent)
        return [host.id for host in self.hosts.ListHosts(request, timeout=PATIENCE).hosts]


@contextmanager
def connect(address: str) -> Iterator[Client]:
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(address, options=options) as channel:
        yield Client(channel)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def redis(folder: Path) -> Iterator[RedisProcess]:
    with start_redis(folder / "redis") as redis:
        yield redis


@pytest.fixture(scope="module")
def client(redis: RedisProcess, folder: Path) -> Iterator[Client]:
    """One registry for all tests, each of which has a model of its own."""
    with (
        start_registry(redis, folder / "registry", "--url-schemes", "file,https") as process,
        connect(process.address) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def file(client: Client, folder: Path) -> model_pb2.File:
    return client.upload(scale(folder, 2.0).read_bytes())


_models = itertools.count(1)


@pytest.fixture
def model() -> str:
    return f"model-{next(_models)}"


# Uploads.


def test_an_upload_goes_on_after_a_broken_stream(client: Client) -> None:
    content = bytes(range(256)) * 1000
    digest, size, sent = digest_of(content), len(content), 100_000

    def begun() -> Iterator[artifacts.WriteBlobRequest]:
        yield artifacts.WriteBlobRequest(digest=digest, size_bytes=size, data=content[:60_000])
        yield artifacts.WriteBlobRequest(offset=60_000, data=content[60_000:sent])
        # The stream must break off while the server waits for more.
        wait_until(lambda: client.committed(digest) == (sent, False))
        call.cancel()

    call = client.artifacts.WriteBlob.future(begun(), timeout=PATIENCE)
    with pytest.raises(grpc.FutureCancelledError):
        call.result()

    offset, complete = client.committed(digest)
    assert (offset, complete) == (sent, False), "what came stays, and is not taken for the whole"
    rest = artifacts.WriteBlobRequest(
        digest=digest, size_bytes=size, offset=offset, data=content[offset:]
    )
    told = client.artifacts.WriteBlob(iter([rest]), timeout=PATIENCE)
    assert (told.committed_bytes, told.complete) == (size, True)
    assert client.download(digest) == content


def test_one_who_waits_to_write_and_gives_up_frees_nothing(client: Client) -> None:
    """Two write one file; the second leaves while the first still writes, and a third comes."""
    content = b"so that the digest is its own" * 1000
    digest, size = digest_of(content), len(content)
    first = artifacts.WriteBlobRequest(digest=digest, size_bytes=size, data=content[:1000])

    def whole() -> Iterator[artifacts.WriteBlobRequest]:
        yield first
        wait_until(lambda: client.committed(digest) == (1000, False))
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as caught:
                client.artifacts.WriteBlob(iter([first]), timeout=0.5)
            # With an answer it would have written beside the one who holds the file.
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        yield artifacts.WriteBlobRequest(offset=1000, data=content[1000:])

    assert client.artifacts.WriteBlob(whole(), timeout=PATIENCE).complete
    assert client.download(digest) == content


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (artifacts.WriteBlobRequest(digest="md5:0", size_bytes=1, data=b"a"), "digest"),
        (artifacts.WriteBlobRequest(digest=digest_of(b"a"), size_bytes=-1), "size_bytes"),
        (artifacts.WriteBlobRequest(digest=digest_of(b"a"), size_bytes=1, data=b"ab"), "data"),
    ],
)
def test_a_wrong_upload_names_its_field(
    client: Client, request_: artifacts.WriteBlobRequest, field: str
) -> None:
    refused = refusal(client.artifacts.WriteBlob, iter([request_]))
    assert (refused.reason, refused.metadata["field"]) == ("INVALID_ARGUMENT", field)
    assert client.committed(digest_of(b"a")) == (0, False)


@pytest.mark.parametrize("second", ["model.onnx/x", "x" * 300])
def test_paths_that_no_folder_can_hold_are_refused(
    client: Client, file: model_pb2.File, model: str, second: str
) -> None:
    other = client.upload(b"another file", second)
    refused = refusal(
        client.registry.RegisterVersion, pb.RegisterVersionRequest(model=model, files=[file, other])
    )
    assert refused.reason == "INVALID_ARTIFACT", refused


# Registering.


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


# Pages.


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


# Routes.


def duration(seconds: float) -> Duration:
    span = Duration()
    span.FromTimedelta(timedelta(seconds=seconds))
    return span


ONE = route_pb2.Target(version=1)
NONE_SUCH = route_pb2.Target(version=99)


@pytest.mark.parametrize(
    ("route", "field"),
    [
        (route_pb2.Route(default=NONE_SUCH), "default"),
        (route_pb2.Route(default=route_pb2.Target(label="none-such")), "default"),
        (route_pb2.Route(deadline=duration(0)), "deadline"),
        (route_pb2.Route(deadline=duration(7200)), "deadline"),
        (route_pb2.Route(retry=route_pb2.Retry(max_attempts=6)), "retry.max_attempts"),
        (route_pb2.Route(split=[route_pb2.Share(target=ONE, weight=-1)]), "split[0].weight"),
        (route_pb2.Route(split=[route_pb2.Share(target=ONE)]), "split"),
        (
            route_pb2.Route(
                split=[
                    route_pb2.Share(target=ONE, weight=1),
                    route_pb2.Share(target=NONE_SUCH, weight=1),
                ]
            ),
            "split[1]",
        ),
        (route_pb2.Route(split=[route_pb2.Share(weight=1)]), "split[0]"),
        (route_pb2.Route(sticky="user"), "sticky"),
        (route_pb2.Route(match=[route_pb2.Match(target=ONE)]), "match[0].metadata"),
        (
            route_pb2.Route(match=[route_pb2.Match(metadata={"Upper": "x"}, target=ONE)]),
            "match[0].metadata",
        ),
        (route_pb2.Route(hedge=route_pb2.Hedge(max_extra_load=2)), "hedge.max_extra_load"),
        (
            route_pb2.Route(hedge=route_pb2.Hedge(max_extra_load=float("nan"))),
            "hedge.max_extra_load",
        ),
        (route_pb2.Route(rendezvous=[route_pb2.Rendezvous(target=ONE)]), "rendezvous"),
        (
            route_pb2.Route(shadow=[route_pb2.Shadow(target=ONE, sample=1.5)]),
            "shadow[0].sample",
        ),
        (
            route_pb2.Route(
                deadline=duration(1),
                fallback=[route_pb2.Fallback(target=ONE, after=duration(1))],
            ),
            "fallback[0].after",
        ),
        (
            route_pb2.Route(fallback=[route_pb2.Fallback(constant=route_pb2.Constant())]),
            "fallback[0].constant",
        ),
        (route_pb2.Route(fallback=[route_pb2.Fallback()]), "fallback[0]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("validate_only", [True, False])
def test_a_wrong_route_names_its_field(
    client: Client, file: model_pb2.File, route: route_pb2.Route, field: str, validate_only: bool
) -> None:
    model = "routed"
    request = pb.RegisterVersionRequest(model=model, files=[file])
    client.registry.RegisterVersion(request, timeout=PATIENCE)
    route = route_pb2.Route.FromString(route.SerializeToString())
    route.name = f"models/{model}/route"
    refused = refusal(
        client.routes.ReplaceRoute,
        route_service_pb2.ReplaceRouteRequest(route=route, validate_only=validate_only),
    )
    assert (refused.reason, refused.metadata["field"]) == ("INVALID_ROUTE", field)
    assert refused.message.startswith(field)
    assert len(client.changes(model)) == 1


def test_a_route_follows_its_etag_and_its_request(
    client: Client, file: model_pb2.File, model: str
) -> None:
    client.register(model, file)
    name = f"models/{model}/route"

    def replace(version: int, **given: str) -> route_service_pb2.ReplaceRouteRequest:
        route = route_pb2.Route(
            name=name,
            default=route_pb2.Target(version=version),
            etag=given.pop("etag", ""),
        )
        return route_service_pb2.ReplaceRouteRequest(route=route, **given)

    request_id = str(uuid.uuid4())
    first = client.routes.ReplaceRoute(
        replace(1, etag="0", request_id=request_id), timeout=PATIENCE
    )
    client.register(model, file)
    second = client.routes.ReplaceRoute(replace(2, etag=first.route.etag), timeout=PATIENCE)
    refused = refusal(client.routes.ReplaceRoute, replace(1, etag=first.route.etag))
    assert (refused.reason, refused.metadata["etag"]) == ("STALE_ETAG", second.route.etag)
    again = replace(1, etag="0", request_id=request_id)
    assert client.routes.ReplaceRoute(again, timeout=PATIENCE) == first
    held = client.routes.GetRoute(route_service_pb2.GetRouteRequest(name=name), timeout=PATIENCE)
    assert held.route == second.route

    delete = pb.DeleteVersionRequest(name=f"models/{model}/versions/2")
    in_use = refusal(client.registry.DeleteVersion, delete)
    assert (in_use.reason, in_use.metadata["held_by"]) == ("VERSION_IN_USE", "the route")
    stale = route_service_pb2.RemoveRouteRequest(name=name, etag=first.route.etag)
    assert refusal(client.routes.RemoveRoute, stale).reason == "STALE_ETAG"
    client.routes.RemoveRoute(
        route_service_pb2.RemoveRouteRequest(name=name, etag=second.route.etag), timeout=PATIENCE
    )
    client.registry.DeleteVersion(delete, timeout=PATIENCE)


# Hosts.


def test_hosts_are_listed_until_their_lease_ends(
    client: Client, file: model_pb2.File, model: str
) -> None:
    one, two = f"models/{model}/versions/1", f"models/{model}/versions/2"
    serving = host_pb2.Host.STATE_SERVING
    stays = host_pb2.Host(id=f"{model}-b", version=one, state=serving, address="unix:/b", pid=7)
    client.report(f"{model}-stays", stays)
    client.report(
        f"{model}-ends", host_pb2.Host(id=f"{model}-a", version=two, state=serving), ttl=0.3
    )
    # The lease may end at any moment; the watch tells of it without being asked.
    watch = client.hosts.WatchHosts(host_service_pb2.WatchHostsRequest(), timeout=PATIENCE)
    for told in watch:
        if f"{model}-a" not in {host.id for host in told.hosts}:
            break
    watch.cancel()
    parent = f"models/{model}"
    wait_until(lambda: client.hosts_of(parent) == [f"{model}-b"])
    assert client.hosts_of(one) == [f"{model}-b"]
    assert client.hosts_of(two) == []
    listed = client.hosts.ListHosts(
        host_service_pb2.ListHostsRequest(parent=parent), timeout=PATIENCE
    )
    stays.state_time.SetInParent()
    assert list(listed.hosts) == [stays], "a host is told of as it was reported"
    client.report(f"{model}-stays")
    assert client.hosts_of(parent) == []


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (host_service_pb2.ReportHostsRequest(ttl=duration(1)), "INVALID_ARGUMENT", "supervisor"),
        (host_service_pb2.ReportHostsRequest(supervisor="s"), "INVALID_ARGUMENT", "ttl"),
        (
            host_service_pb2.ReportHostsRequest(supervisor="s", ttl=duration(301)),
            "INVALID_ARGUMENT",
            "ttl",
        ),
        (
            host_service_pb2.ReportHostsRequest(
                supervisor="s", ttl=duration(1), hosts=[host_pb2.Host(id="a", version="nonsense")]
            ),
            "INVALID_NAME",
            "name",
        ),
    ],
)
def test_a_wrong_report_names_its_field_and_changes_nothing(
    client: Client, request_: host_service_pb2.ReportHostsRequest, reason: str, field: str
) -> None:
    before = client.hosts_of("")
    refused = refusal(client.hosts.ReportHosts, request_)
    assert (refused.reason, refused.metadata["field"]) == (reason, field)
    assert client.hosts_of("") == before
