"""Files by their digest: received piece by piece, kept whole or not at all.

An upload grows in a folder of this machine, so that it can go on after a fault, and moves to
the store only when all its bytes came and the digest fits.
"""

import asyncio
import errno
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from modelyard.errors import (
    BlobNotFound,
    FailedPrecondition,
    InvalidArgument,
    InvalidArtifact,
    OffsetMismatch,
    ResourceExhausted,
    StoreUnavailable,
    Unavailable,
)

PIECE = 1 << 20
# In bytes; file systems take no longer parts, and the folder's own path comes before.
LONGEST_PATH, LONGEST_PART = 1024, 255
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Held:
    """How much of a file is here, in bytes, and whether that is all of it."""

    committed: int
    complete: bool


def check_digest(digest: str) -> str:
    """The 64 hex digits of a digest; raises InvalidArgument."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidArgument(f"digest {digest!r}: `sha256:` and 64 hex digits", field="digest")
    return digest.removeprefix("sha256:")


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceExhausted("the artifact store is full") from error
        raise StoreUnavailable(f"the artifact store does not answer: {error}") from error


@contextmanager
def _source(url: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError):
        raise InvalidArtifact(f"source_url {url!r}: no such file") from None
    except PermissionError as error:
        raise InvalidArtifact(f"source_url {url!r}: {error}") from None
    except OSError as error:
        raise Unavailable(f"source_url {url!r} does not answer: {error}") from error
    except ImportError as error:
        raise FailedPrecondition(f"source_url {url!r}: {error}") from None


class ArtifactStore:
    """Keeps blobs at `sha256/ab/<hex>` of a store.

    Args:
        url: A folder, or an fsspec URL such as `s3://bucket/prefix`.
        uploads: A folder of this machine, where uploads grow.
    """

    def __init__(self, url: str, uploads: Path) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._is_local = isinstance(self._fs, LocalFileSystem)
        self._uploads = uploads
        uploads.mkdir(parents=True, exist_ok=True)
        self._locks: dict[str, asyncio.Lock] = {}

    def path(self, digest: str) -> str:
        """Where a blob lies in the store."""
        hexed = check_digest(digest)
        return f"{self._root.rstrip('/')}/sha256/{hexed[:2]}/{hexed}"

    async def held(self, digest: str) -> Held:
        """How much of a file is here; raises StoreUnavailable."""
        return await asyncio.to_thread(self._held, digest)

    def _held(self, digest: str) -> Held:
        path = self.path(digest)
        with _disk():
            if self._fs.exists(path):
                return Held(int(self._fs.size(path) or 0), True)
            part = self._part(digest)
            return Held(part.stat().st_size if part.exists() else 0, False)

    def _part(self, digest: str) -> Path:
        return self._uploads / f"{check_digest(digest)}.part"

    def receiving(self, digest: str) -> asyncio.Lock:
        """Held by the one who writes a file."""
        return self._locks.setdefault(digest, asyncio.Lock())

    async def append(self, digest: str, offset: int, data: bytes) -> int:
        """Adds bytes to an upload; gives how many are here.

        Raises:
            OffsetMismatch: The upload goes on elsewhere; the metadata says where.
            ResourceExhausted: The disk is full; what came before stays.
        """
        return await asyncio.to_thread(self._append, digest, offset, data)

    def _append(self, digest: str, offset: int, data: bytes) -> int:
        # Without a buffer: what cannot be written would stay in it, and so would come later.
        with _disk(), self._part(digest).open("ab", buffering=0) as part:
            held = part.tell()
            if held != offset:
                raise OffsetMismatch(
                    f"the upload goes on at {held}, not at {offset}", committed_bytes=str(held)
                )
            try:
                left = memoryview(data)
                while left:
                    left = left[part.write(left) :]
            except OSError:
                part.truncate(held)
                raise
            return held + len(data)

    async def finish(self, digest: str) -> None:
        """Verifies an upload and moves it to the store.

        Raises:
            InvalidArtifact: Its bytes have another digest; they are dropped.
        """
        await asyncio.to_thread(self._finish, digest)

    def _finish(self, digest: str) -> None:
        part = self._part(digest)
        with _disk():
            part.touch()
            with part.open("rb") as file:
                found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
                os.fsync(file.fileno())
            if found != digest:
                part.unlink()
                raise InvalidArtifact(
                    f"the bytes have the digest {found}, not {digest}", digest=digest, found=found
                )
            self._move(part, self.path(digest))

    def _move(self, part: Path, path: str) -> None:
        parent = path.rpartition("/")[0]
        self._fs.makedirs(parent, exist_ok=True)
        if not self._is_local:
            self._fs.put_file(str(part), path)
            part.unlink()
            return
        try:
            part.replace(path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.copyfile(part, f"{path}.moving")
            os.replace(f"{path}.moving", path)
            part.unlink()
        folder = os.open(parent, os.O_RDONLY)
        try:
            # The name must outlive a power failure, too.
            os.fsync(folder)
        finally:
            os.close(folder)

    async def take(self, url: str, schemes: frozenset[str], digest: str) -> tuple[str, int]:
        """Fetches a file from elsewhere into the store; gives its digest and size.

        Raises:
            InvalidArgument: The scheme is not allowed.
            InvalidArtifact: It is not there, or has another digest than `digest`, if given.
            FailedPrecondition: What reads such addresses is not installed.
            Unavailable: It, or the store, does not answer.
            ResourceExhausted: The disk is full.
        """
        scheme = url.partition("://")[0] if "://" in url else "file"
        if scheme not in schemes:
            raise InvalidArgument(
                f"source_url {url!r}: of the schemes {', '.join(sorted(schemes))} only",
                field="source_url",
            )
        return await asyncio.to_thread(self._take, url, digest)

    def _take(self, url: str, digest: str) -> tuple[str, int]:
        part = self._uploads / f"{os.urandom(8).hex()}.fetch"
        sha, size = hashlib.sha256(), 0
        try:
            with _source(url), fsspec.open(url, "rb") as source, _disk(), part.open("wb") as target:
                while True:
                    with _source(url):
                        piece = source.read(PIECE)
                    if not piece:
                        break
                    sha.update(piece)
                    size += len(piece)
                    target.write(piece)
                target.flush()
                os.fsync(target.fileno())
            found = f"sha256:{sha.hexdigest()}"
            if digest and found != digest:
                raise InvalidArtifact(
                    f"source_url {url!r}: has the digest {found}, not {digest}", found=found
                )
            with _disk():
                self._move(part, self.path(found))
            return found, size
        finally:
            part.unlink(missing_ok=True)

    async def read(self, digest: str, offset: int) -> AsyncIterator[bytes]:
        """The bytes of a file from an offset on; raises BlobNotFound."""
        path = self.path(digest)
        try:
            file = await asyncio.to_thread(self._fs.open, path, "rb")
        except FileNotFoundError:
            raise BlobNotFound(f"no file {digest} was uploaded", digest=digest) from None
        try:
            await asyncio.to_thread(file.seek, offset)
            while piece := await asyncio.to_thread(file.read, PIECE):
                yield piece
        finally:
            await asyncio.to_thread(file.close)

    def lay_out(self, folder: Path, files: list[tuple[str, str]]) -> None:
        """Puts files, as (path, digest), into a folder under their paths.

        A lone file is linked where possible. Of several each is copied: onnx.checker refuses
        external data that has more than one hard link.

        Raises:
            InvalidArtifact: A path leads out of the folder, or comes twice.
            BlobNotFound: A file was not uploaded.
        """
        for path, digest in files:
            target = folder / check_path(path)
            if target.exists():
                raise InvalidArtifact(f"the path {path!r} comes twice", path=path)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise InvalidArtifact(f"the path {path!r} lies below a file", path=path) from None
            blob = self.path(digest)
            with _disk():
                if not self._fs.exists(blob):
                    raise BlobNotFound(f"no file {digest} was uploaded", digest=digest, path=path)
                try:
                    if not self._is_local or len(files) > 1:
                        raise OSError(errno.EXDEV, "to be copied")
                    os.link(blob, target)
                except OSError as error:
                    if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                        raise
                    self._fs.get_file(blob, str(target))


def check_path(path: str) -> str:
    """A path that stays in its folder; raises InvalidArtifact."""
    parts = path.split("/")
    if not path or path.startswith("/") or "\\" in path or "\0" in path:
        raise InvalidArtifact(f"the path {path!r} is not relative", path=path)
    if any(part in ("", ".", "..") for part in parts):
        raise InvalidArtifact(f"the path {path!r} leads out of the artifact's folder", path=path)
    if len(path.encode()) > LONGEST_PATH or any(len(p.encode()) > LONGEST_PART for p in parts):
        raise InvalidArtifact(f"the path {path[:80]!r}... is too long")
    return path


def manifest_digest(files: list[tuple[str, str]]) -> str:
    """The digest of an artifact: its file's, or its manifest's where it has more files."""
    if len(files) == 1:
        return files[0][1]
    lines = sorted((path, check_digest(digest)) for path, digest in files)
    manifest = "".join(f"{hexed}  {path}\n" for path, hexed in lines)
    return f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}"
