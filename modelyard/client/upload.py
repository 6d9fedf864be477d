"""Files go to the registry by their digest; an upload that broke off goes on where it was."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from modelyard.client.external_data import external_files
from modelyard.client.steps import (
    Method,
    OnProgress,
    Program,
    Sleep,
    Tally,
    Upload,
    blocking,
    unary,
)
from modelyard.errors import DeadlineExceeded, InvalidArtifact, OffsetMismatch, Unavailable
from modelyard.registry.v1 import artifact_service_pb2 as artifacts
from modelyard.registry.v1 import model_pb2

_SERVICE = "modelyard.registry.v1.ArtifactService"
GET_BLOB = Method(_SERVICE, "GetBlob", artifacts.GetBlobResponse)
WRITE_BLOB = Method(_SERVICE, "WriteBlob", artifacts.WriteBlobResponse)

PIECE = 1 << 20
# Tries in a row that bring nothing forward.
TRIES = 5


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to upload: where it is, what the artifact calls it, and its digest."""

    path: Path
    name: str
    digest: str
    size: int

    def noun(self) -> model_pb2.File:
        """As the registry names it."""
        return model_pb2.File(path=self.name, digest=self.digest, size_bytes=self.size)


def artifact(model: Path) -> list[LocalFile]:
    """A model file and the files that it keeps tensors in, the model file first.

    Raises:
        InvalidArtifact: A file is not there, or leaves the model's folder.
    """
    first = local_file(model)
    return [first, *(local_file(path, name) for name, path in external_files(model).items())]


def local_file(path: Path, name: str | None = None) -> LocalFile:
    """Reads a file's size and digest; raises InvalidArtifact where there is no file."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return LocalFile(path, name or path.name, f"sha256:{digest}", file.tell())
    except OSError as error:
        raise InvalidArtifact(f"{path}: {error.strerror}", path=str(path)) from None


def upload(files: list[LocalFile], progress: OnProgress | None) -> Program[None]:
    """Brings each file to the registry that is not there yet."""
    tally = Tally.of(progress, {file.digest: file.size for file in files})
    for file in {file.digest: file for file in files}.values():
        yield from _upload_file(file, tally)


def _upload_file(file: LocalFile, tally: Tally) -> Program[None]:
    tries, best = 0, -1
    while True:
        try:
            held = yield from unary(
                GET_BLOB, artifacts.GetBlobRequest(digest=file.digest), timeout=60.0
            )
            if held.complete:
                tally.at(file.digest, file.size)
                return
            if held.committed_bytes > best:
                tries, best = 0, held.committed_bytes
            yield Upload(WRITE_BLOB, _pieces(file, held.committed_bytes, tally))
        except (Unavailable, OffsetMismatch, DeadlineExceeded):
            tries += 1
            if tries == TRIES:
                raise
            yield Sleep(0.2 * 2**tries)


def _pieces(file: LocalFile, offset: int, tally: Tally) -> Iterator[artifacts.WriteBlobRequest]:
    tally.at(file.digest, offset)
    first = artifacts.WriteBlobRequest(digest=file.digest, size_bytes=file.size, offset=offset)
    with file.path.open("rb") as data:
        data.seek(offset)
        first.data = data.read(PIECE)
        yield first
        offset += len(first.data)
        tally.at(file.digest, offset)
        for piece in iter(partial(data.read, PIECE), b""):
            yield artifacts.WriteBlobRequest(offset=offset, data=piece)
            offset += len(piece)
            tally.at(file.digest, offset)


def prepare(path: Path, golden: Path | None) -> Program[tuple[list[LocalFile], LocalFile | None]]:
    """Reads the files of a registration and their digests."""
    files = yield from blocking(lambda: artifact(path))
    samples = None if golden is None else (yield from blocking(lambda: local_file(golden)))
    return files, samples
