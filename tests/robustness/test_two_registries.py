"""Two registries on one Redis: one order of changes, and each acknowledgement is in it once."""

import random
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelyard.catalog import Change, VersionLoaded
from modelyard.errors import Aborted
from modelyard.metadata import REVISION
from modelyard.names import VersionName
from modelyard.registry.v1 import change_pb2, model_pb2
from modelyard.registry.v1 import registry_service_pb2 as pb
from modelyard.status import from_rpc_error
from services.registry import registry as registry_module
from services.registry.log import Conflict
from services.registry.registry import Registry
from tests.kit.registry import start_redis, start_registry
from tests.kit.registry_client import PATIENCE, Client, connect, wait_until
from tests.kit.scale import scale

ROUNDS = 40
LIVE = "models/m/labels/live"


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Client, Client]]:
    """They share their artifacts, as registries on one bucket do."""
    with (
        start_redis(tmp_path / "redis") as redis,
        start_registry(redis, tmp_path / "registry") as one,
        start_registry(redis, tmp_path / "registry") as two,
        connect(one.address) as first,
        connect(two.address) as second,
    ):
        yield first, second


@pytest.fixture
def file(both: tuple[Client, Client], tmp_path: Path) -> model_pb2.File:
    """Of the model `m`, which both know."""
    file = both[0].upload(scale(tmp_path, 2.0).read_bytes())
    both[0].register("m", file)
    both[0].register("m", file)
    wait_until(lambda: revision(both[1]) == revision(both[0]) == 2)
    return file


def revision(client: Client) -> int:
    found = client.registry.ListChanges(pb.ListChangesRequest(page_size=1), timeout=PATIENCE)
    return int(found.changes[0].revision) if found.changes else 0


def one_history(both: tuple[Client, Client]) -> list[change_pb2.Change]:
    """What both tell, the oldest first; it must be the same."""
    newest = max(map(revision, both))
    wait_until(lambda: all(revision(client) >= newest for client in both))
    first, second = (client.changes("m") for client in both)
    assert first == second
    assert [change.revision for change in first] == list(range(1, newest + 1))
    catalogs = []
    for client in both:
        watch = client.registry.Watch(pb.WatchRequest(), timeout=PATIENCE)
        catalogs.append(next(watch).snapshot)
        watch.cancel()
    assert catalogs[0] == catalogs[1]
    return first


@dataclass
class Writer:
    """Moves a label from where its registry says that it is, and registers now and then."""

    client: Client
    file: model_pb2.File
    chance: random.Random
    # By request id: the etag that was given, and what was answered, with its revision.
    moved: dict[str, tuple[str, model_pb2.Label, int]] = field(default_factory=dict)
    registered: dict[str, tuple[int, int]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)

    def write(self) -> None:
        for _ in range(ROUNDS):
            self._move(str(uuid.uuid4()))
            if self.chance.random() < 0.25:
                self._register(str(uuid.uuid4()))

    def _move(self, request_id: str) -> None:
        get = pb.GetModelRequest(name="models/m")
        labels = self.client.registry.GetModel(get, timeout=PATIENCE).model.labels
        label = next((la for la in labels if la.name == LIVE), model_pb2.Label(etag="0"))
        request = pb.MoveLabelRequest(
            name=LIVE,
            version=1 if label.version == 2 else 2,
            etag=label.etag,
            request_id=request_id,
        )
        try:
            response, at = _called(self.client.registry.MoveLabel, request)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.ABORTED, error
            assert from_rpc_error(error).reason == "STALE_ETAG"
            self.refused.add(request_id)
        else:
            self.moved[request_id] = (label.etag, response.label, at)

    def _register(self, request_id: str) -> None:
        request = pb.RegisterVersionRequest(
            model="m", files=[self.file], allow_duplicate=True, request_id=request_id
        )
        response, at = _called(self.client.registry.RegisterVersion, request)
        self.registered[request_id] = (response.version.number, at)


def _called(method: Any, request: Any) -> tuple[Any, int]:
    response, call = method.with_call(request, timeout=PATIENCE)
    return response, int(dict(call.trailing_metadata())[REVISION])


def test_every_acknowledged_change_is_there_once_and_in_one_order(
    both: tuple[Client, Client], file: model_pb2.File
) -> None:
    writers = [Writer(both[i % 2], file, random.Random(i)) for i in range(4)]
    with ThreadPoolExecutor(len(writers)) as threads:
        for ended in [threads.submit(writer.write) for writer in writers]:
            ended.result()
    moved = {key: value for writer in writers for key, value in writer.moved.items()}
    registered = {key: value for writer in writers for key, value in writer.registered.items()}
    refused = set().union(*(writer.refused for writer in writers))
    assert moved
    assert refused, "nobody raced"

    changes = one_history(both)[2:]
    by_request = {change.request_id: change for change in changes}
    assert len(by_request) == len(changes)
    assert by_request.keys() == moved.keys() | registered.keys()

    # Each move began where the one before it had ended: no update was lost.
    etag = "0"
    for change in changes:
        if change.WhichOneof("event") != "label_moved":
            continue
        given, label, at = moved[change.request_id]
        assert given == etag
        assert (label.version, label.etag) == (change.label_moved.version, str(change.revision))
        assert at == change.revision
        etag = label.etag

    numbers = []
    for change in changes:
        if change.WhichOneof("event") == "version_registered":
            number = change.version_registered.version.number
            assert registered[change.request_id] == (number, change.revision)
            numbers.append(number)
    assert numbers == list(range(3, 3 + len(registered)))


def test_one_request_at_both_makes_one_change(
    both: tuple[Client, Client], file: model_pb2.File
) -> None:
    """A caller that hears nothing asks the other registry, while the first is still at it."""
    with ThreadPoolExecutor(2) as threads:
        for _ in range(10):
            register = pb.RegisterVersionRequest(
                model="m", files=[file], allow_duplicate=True, request_id=str(uuid.uuid4())
            )
            answers = list(threads.map(lambda c, r=register: c.registry.RegisterVersion(r), both))
            assert answers[0] == answers[1]
            move = pb.MoveLabelRequest(
                name=LIVE, version=answers[0].version.number, request_id=str(uuid.uuid4())
            )
            # Either knows the version: both have answered with it.
            moved = list(threads.map(lambda c, r=move: c.registry.MoveLabel(r), both))
            assert moved[0] == moved[1]
    assert len(one_history(both)) == 2 + 2 * 10


def test_the_same_files_at_both_are_one_version(
    both: tuple[Client, Client], file: model_pb2.File, tmp_path: Path
) -> None:
    other = both[0].upload(scale(tmp_path, 3.0).read_bytes())
    request = pb.RegisterVersionRequest(model="m", files=[other])
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda c: c.registry.RegisterVersion(request), both))
    assert sorted(answer.created for answer in answers) == [False, True]
    assert answers[0].version == answers[1].version
    assert len(one_history(both)) == 3


class Crowded:
    """A log that another writer always reaches first, with a change that it does not tell of."""

    async def append(self, change: Change) -> None:
        raise Conflict

    async def read(self, after: int) -> list[Change]:
        return []

    async def tail(self, after: int) -> AsyncIterator[Change]:
        return
        yield


async def test_who_never_comes_first_is_told_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "PATIENCE", 0.0)
    with pytest.raises(Aborted):
        await Registry(Crowded()).commit(lambda _: VersionLoaded(VersionName("m", 1)))
