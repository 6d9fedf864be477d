"""`ArtifactService`: protobuf in and out."""

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from modelyard.errors import InvalidArgument
from modelyard.registry.v1 import artifact_service_pb2 as pb
from modelyard.registry.v1 import artifact_service_pb2_grpc
from services.registry.artifacts import ArtifactStore, check_digest

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

LARGEST_PIECE = 4 << 20


class ArtifactServicer(artifact_service_pb2_grpc.ArtifactServiceServicer):
    """Receives and gives files.

    Args:
        store: Where they are kept.
        largest: The largest file that is taken, in bytes.
    """

    def __init__(self, store: ArtifactStore, largest: int) -> None:
        self._store = store
        self._largest = largest

    async def GetBlob(self, request: pb.GetBlobRequest, context: Context) -> pb.GetBlobResponse:
        """How much of a file is here."""
        check_digest(request.digest)
        held = await self._store.held(request.digest)
        return pb.GetBlobResponse(committed_bytes=held.committed, complete=held.complete)

    async def WriteBlob(
        self, requests: AsyncIterator[pb.WriteBlobRequest], context: Context
    ) -> pb.WriteBlobResponse:
        """Takes a file, or the rest of one; what arrived stays when the stream breaks off."""
        digest, size, held = "", 0, 0
        # One writer a file: a second one finds what the first brought.
        lock = None
        try:
            async for request in requests:
                if lock is None:
                    digest, size = request.digest, request.size_bytes
                    self._check(digest, size)
                    receiving = self._store.receiving(digest)
                    await receiving.acquire()
                    # Only now: who gives up while waiting must not free what another holds.
                    lock = receiving
                    before = await self._store.held(digest)
                    if before.complete:
                        return pb.WriteBlobResponse(committed_bytes=before.committed, complete=True)
                if len(request.data) > LARGEST_PIECE:
                    raise InvalidArgument(
                        f"data of {len(request.data)} bytes: at most {LARGEST_PIECE}", field="data"
                    )
                if request.offset + len(request.data) > size:
                    raise InvalidArgument(
                        f"data up to {request.offset + len(request.data)}: the file was said to"
                        f" have {size} bytes",
                        field="data",
                    )
                held = await self._store.append(digest, request.offset, request.data)
            if lock is None:
                raise InvalidArgument("the stream holds no message", field="digest")
            if held == size:
                await self._store.finish(digest)
            return pb.WriteBlobResponse(committed_bytes=held, complete=held == size)
        finally:
            if lock is not None:
                lock.release()

    async def ReadBlob(
        self, request: pb.ReadBlobRequest, context: Context
    ) -> AsyncIterator[pb.ReadBlobResponse]:
        """Gives a file from an offset on."""
        if request.offset < 0:
            raise InvalidArgument(f"offset {request.offset}: not negative", field="offset")
        async for piece in self._store.read(request.digest, request.offset):
            yield pb.ReadBlobResponse(data=piece)

    def _check(self, digest: str, size: int) -> None:
        check_digest(digest)
        if not 0 <= size <= self._largest:
            raise InvalidArgument(
                f"size_bytes {size}: from 0 to {self._largest}", field="size_bytes"
            )
