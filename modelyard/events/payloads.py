"""Payloads that are too large for the log, by reference, through fsspec.

A payload lies at `<hour>/<sha256>`: the same bytes twice in an hour are kept once, and what is too
old goes by whole hours.
"""

import asyncio
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import fsspec
from fsspec.implementations.local import LocalFileSystem

from modelyard.errors import BlobNotFound, StoreUnavailable
from modelyard.events.v1 import event_pb2

_HOUR = "%Y-%m-%dT%H"


class Payloads:
    """Keeps payloads for a while.

    Args:
        url: A folder, or an fsspec URL such as `s3://bucket/prefix`.
        age: How long they are kept at least.
    """

    def __init__(self, url: str, age: timedelta = timedelta(days=1)) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._age = age

    async def put(self, data: bytes, now: datetime) -> str:
        """Keeps bytes; gives their reference. Raises StoreUnavailable."""
        return await asyncio.to_thread(self._put, data, now)

    async def get(self, payload: event_pb2.Payload) -> bytes:
        """The bytes of a payload, wherever they lie.

        Raises:
            BlobNotFound: They are too old, and gone.
            StoreUnavailable: The store does not answer.
        """
        if payload.WhichOneof("place") != "reference":
            return payload.inline
        return await asyncio.to_thread(self._get, payload.reference)

    async def expire(self, now: datetime) -> int:
        """Removes what is too old; gives how many hours of it. Raises StoreUnavailable."""
        return await asyncio.to_thread(self._expire, now)

    def _put(self, data: bytes, now: datetime) -> str:
        reference = f"{now.astimezone(UTC).strftime(_HOUR)}/{hashlib.sha256(data).hexdigest()}"
        path = f"{self._root}/{reference}"
        with _answering():
            if self._fs.exists(path):
                return reference
            if isinstance(self._fs, LocalFileSystem):
                # Whole or not at all; an object store's PUT is so by itself.
                self._fs.makedirs(os.path.dirname(path), exist_ok=True)
                part = f"{path}.{os.urandom(4).hex()}.part"
                self._fs.pipe_file(part, data)
                os.replace(part, path)
            else:
                self._fs.pipe_file(path, data)
        return reference

    def _get(self, reference: str) -> bytes:
        with _answering():
            try:
                held: bytes = self._fs.cat_file(f"{self._root}/{reference}")
            except FileNotFoundError:
                raise BlobNotFound(f"payload {reference} is not kept any more") from None
        return held

    def _expire(self, now: datetime) -> int:
        # The hour that has just begun to be too old may hold younger ones: it goes an hour later.
        oldest = (now.astimezone(UTC) - self._age - timedelta(hours=1)).strftime(_HOUR)
        removed = 0
        with _answering():
            if not self._fs.exists(self._root):
                return 0
            for path in self._fs.ls(self._root, detail=False):
                if os.path.basename(path.rstrip("/")) < oldest:
                    self._fs.rm(path, recursive=True)
                    removed += 1
        return removed


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"the payload store does not answer: {error}") from error
