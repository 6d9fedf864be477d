"""The files of versions, from the artifact store onto this machine.

A blob lies in the store at `sha256/ab/<hex>`. A version gets a folder of its own in the cache, with
its files under the names of its manifest, so that external data is found:

- From a store that is a local folder the files are hard links: no copy, no extra room. (No
  symbolic links: onnxruntime refuses external data that leads out of the model's folder.) Where
  the file system cannot link, they are copies.
- From any other store they are downloaded and their digests verified.

A folder appears whole or not at all. The least recently used ones go when the cache is too large.
"""

import asyncio
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

import fsspec

from modelyard.catalog import File
from modelyard.errors import InvalidArtifact, StoreUnavailable

_CHUNK = 1 << 20
_PREFIX = "sha256:"


@dataclass(frozen=True, slots=True)
class Artifact:
    """What makes up a version: its digest, its files (the model's first), its golden samples."""

    digest: str
    files: tuple[File, ...]
    golden: File | None = None


@dataclass(frozen=True, slots=True)
class Local:
    """An artifact on this machine: what a host is given."""

    artifact: Path
    golden: Path | None


class ArtifactCache:
    """Brings artifacts onto this machine.

    Args:
        store: The store's folder or fsspec URL.
        folder: The cache.
        limit: In bytes; what is in use stays, whatever the limit says.
        storage_options: For fsspec.
    """

    def __init__(
        self,
        store: str,
        folder: Path,
        *,
        limit: int = 20 << 30,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        self._store = store.rstrip("/")
        self._local = _local_folder(store)
        self._options = storage_options or {}
        self._versions = folder / "versions"
        self._golden = folder / "golden"
        self._parts = folder / "parts"
        for part in (self._versions, self._golden, self._parts):
            part.mkdir(parents=True, exist_ok=True)
        for left in self._parts.iterdir():
            _remove(left)
        self._limit = limit
        self._locks: dict[str, asyncio.Lock] = {}

    async def fetch(self, artifact: Artifact, in_use: Iterable[str] = ()) -> Local:
        """Brings the artifact here, unless it is here.

        Args:
            artifact: What to bring.
            in_use: Digests of the artifacts that hosts use now.

        Raises:
            InvalidArtifact: A file does not have its digest, or lies outside the folder.
            StoreUnavailable: The store does not give a file, or the disk does not take it.
        """
        key = _hex(artifact.digest)
        golden = artifact.golden
        # Two hosts of one version fetch it once.
        async with self._locks.setdefault(key, asyncio.Lock()):
            folder = self._versions / key
            await self._once(folder, lambda part: self._fill(part, artifact.files))
            samples = None
            if golden is not None:
                samples = self._golden / f"{_hex(golden.digest)}.npz"
                await self._once(samples, lambda part: self._bring(golden, part))
        used = {_hex(digest) for digest in in_use} | {key}
        await asyncio.to_thread(self._evict, used)
        if len(artifact.files) > 1:
            return Local(folder, samples)
        # The digest of one file says nothing of its name: another version may have brought it.
        (file,) = (path for path in folder.rglob("*") if path.is_file())
        return Local(file, samples)

    async def discard(self, digest: str) -> None:
        """Drops an artifact that no host uses, so that the next one brings it anew."""
        async with self._locks.setdefault(_hex(digest), asyncio.Lock()):
            await asyncio.to_thread(self._drop, self._versions / _hex(digest))

    async def _once(self, path: Path, make: Callable[[Path], None]) -> None:
        if path.exists():
            os.utime(path)
            return
        part = self._parts / uuid.uuid4().hex

        def work() -> None:
            try:
                make(part)
                part.replace(path)
            finally:
                _remove(part)

        await asyncio.to_thread(work)

    def _fill(self, folder: Path, files: Iterable[File]) -> None:
        folder.mkdir()
        for file in files:
            path = PurePosixPath(file.path)
            if path.is_absolute() or not path.parts or ".." in path.parts:
                raise InvalidArtifact(f"the file {file.path!r} lies outside its artifact's folder")
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            self._bring(file, target)

    def _bring(self, file: File, target: Path) -> None:
        name = _hex(file.digest)
        try:
            if self._local is not None:
                blob = self._local / "sha256" / name[:2] / name
                try:
                    # The host verifies the digest: here a link costs nothing, whatever the size.
                    os.link(blob, target)
                except OSError as error:
                    if error.errno not in (
                        errno.EXDEV,
                        errno.EPERM,
                        errno.EMLINK,
                        errno.EOPNOTSUPP,
                    ):
                        raise
                    with blob.open("rb") as source:
                        _copy(source, target, file)
            else:
                url = f"{self._store}/sha256/{name[:2]}/{name}"
                with fsspec.open(url, "rb", **self._options) as source:
                    _copy(source, target, file)
        except InvalidArtifact:
            raise
        # Each fsspec adapter has errors of its own (botocore's, gcsfs's, aiohttp's), all of them
        # saying that the store did not give the file.
        except Exception as error:
            raise StoreUnavailable(
                f"the artifact store does not give {file.path!r} ({file.digest}): {error}"
            ) from error

    def _evict(self, used: set[str]) -> None:
        entries = []
        for folder in self._versions.iterdir():
            # A link costs nothing while the store holds the file too.
            size = sum(
                stat.st_size
                for path in folder.rglob("*")
                if path.is_file() and (stat := path.stat()).st_nlink == 1
            )
            entries.append((folder.stat().st_mtime, size, folder))
        total = sum(size for _, size, _ in entries)
        for _, size, folder in sorted(entries):
            if total <= self._limit:
                return
            if folder.name not in used and size:
                self._drop(folder)
                total -= size

    def _drop(self, folder: Path) -> None:
        # Renamed first: what is half removed is not taken for an artifact.
        if folder.exists():
            _remove(folder.replace(self._parts / uuid.uuid4().hex))


def _copy(source: BinaryIO, target: Path, file: File) -> None:
    found = hashlib.sha256()
    with target.open("wb") as sink:
        while chunk := source.read(_CHUNK):
            found.update(chunk)
            sink.write(chunk)
    if found.hexdigest() != _hex(file.digest):
        raise InvalidArtifact(
            f"{file.path!r} came from the artifact store with the digest"
            f" sha256:{found.hexdigest()}, not {file.digest}"
        )


def _hex(digest: str) -> str:
    name = digest.removeprefix(_PREFIX)
    if len(name) != 64 or not all(c in "0123456789abcdef" for c in name):
        raise InvalidArtifact(f"{digest!r} is no sha256 digest")
    return name


def _local_folder(store: str) -> Path | None:
    parts = urlsplit(store)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if parts.scheme else Path(store)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
