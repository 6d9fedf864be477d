"""Uploads, against a small artifact service in this process that breaks off now and then."""

import hashlib
import os
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from modelyard.client import AsyncClient, Client, Progress
from modelyard.client import upload as uploads
from modelyard.client.steps import Program, Sleep
from modelyard.errors import HostGone, InvalidArtifact, ModelyardError
from modelyard.registry.v1 import artifact_service_pb2 as artifacts
from modelyard.registry.v1 import artifact_service_pb2_grpc as artifacts_grpc


class Artifacts(artifacts_grpc.ArtifactServiceServicer):
    """Keeps blobs in memory; each of the next `faults` uploads breaks off after two pieces."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytearray] = {}
        self.sizes: dict[str, int] = {}
        self.faults = 0
        self.received = 0
        self.forgets = False

    def GetBlob(
        self, request: artifacts.GetBlobRequest, context: grpc.ServicerContext
    ) -> artifacts.GetBlobResponse:
        held = len(self.blobs.get(request.digest, b""))
        return artifacts.GetBlobResponse(
            committed_bytes=held, complete=held == self.sizes.get(request.digest)
        )

    def WriteBlob(
        self, requests: Iterator[artifacts.WriteBlobRequest], context: grpc.ServicerContext
    ) -> artifacts.WriteBlobResponse:
        digest = ""
        for number, request in enumerate(requests):
            if number == 0:
                digest = request.digest
                self.sizes[digest] = request.size_bytes
            blob = self.blobs.setdefault(digest, bytearray())
            if self.faults and (number == 2 or self.forgets):
                self.faults -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            assert request.offset == len(blob)
            assert len(request.data) <= 4 << 20
            blob += request.data
            self.received += len(request.data)
        return artifacts.WriteBlobResponse(committed_bytes=len(blob), complete=True)


@pytest.fixture
def service() -> Artifacts:
    return Artifacts()


@pytest.fixture
def address(service: Artifacts) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    artifacts_grpc.add_ArtifactServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(5 * uploads.PIECE + 17))
    return path


def at_once(program: Program[None]) -> Program[None]:
    """The same program without its waits."""
    result: object = None
    failure: ModelyardError | None = None
    while True:
        try:
            step = program.send(result) if failure is None else program.throw(failure)
        except StopIteration:
            return
        result = failure = None
        if isinstance(step, Sleep):
            continue
        try:
            result = yield step
        except ModelyardError as error:
            failure = error


def test_an_upload_goes_on_where_it_was(service: Artifacts, address: str, file: Path) -> None:
    service.faults = 2
    local = uploads.local_file(file)
    seen: list[Progress] = []

    with Client(address) as client:
        client._run(at_once(uploads.upload([local], seen.append)))

    assert bytes(service.blobs[local.digest]) == file.read_bytes()
    assert service.received == local.size, "no byte came twice"
    assert (seen[-1].done, seen[-1].total) == (local.size, local.size)


def test_what_is_there_is_not_sent_again(service: Artifacts, address: str, file: Path) -> None:
    local = uploads.local_file(file)
    with Client(address) as client:
        client._run(uploads.upload([local, local], None))
        client._run(uploads.upload([local], None))

    assert service.received == local.size


async def test_the_async_client_does_the_same(
    service: Artifacts, address: str, file: Path, tmp_path: Path
) -> None:
    service.faults = 1
    empty = tmp_path / "empty"
    empty.touch()
    files = [uploads.local_file(file), uploads.local_file(empty, "sub/empty")]
    async with AsyncClient(address) as client:
        await client._run(at_once(uploads.upload(files, None)))

    assert {digest: bytes(blob) for digest, blob in service.blobs.items()} == {
        files[0].digest: file.read_bytes(),
        f"sha256:{hashlib.sha256().hexdigest()}": b"",
    }


def test_gives_up_when_nothing_comes_forward(service: Artifacts, address: str, file: Path) -> None:
    service.faults, service.forgets = 100, True
    local = uploads.local_file(file)

    with Client(address) as client, pytest.raises(HostGone, match="gone"):
        client._run(at_once(uploads.upload([local], None)))

    assert service.faults == 100 - uploads.TRIES


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidArtifact, match="none: No such file or directory"):
        uploads.artifact(tmp_path / "none")
