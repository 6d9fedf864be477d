"""A version as a request describes it, checked; its number is still to be given."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from modelyard.catalog import Catalog, File, Version
from modelyard.errors import InvalidArgument, InvalidArtifact
from modelyard.names import VersionName
from modelyard.registry.v1 import model_pb2
from modelyard.registry.v1 import registry_service_pb2 as pb
from services.registry import decide
from services.registry.artifacts import ArtifactStore, check_path, manifest_digest
from services.registry.verify import Verifier

MOST_KEYS, LONGEST_VALUE = 64, 1024
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


class Drafter:
    """Fetches, checks and tries what is to be registered.

    Args:
        store: Where files are.
        verifier: Tries a model in a process of its own.
        url_schemes: Of `source_url`.
    """

    def __init__(
        self, store: ArtifactStore, verifier: Verifier, url_schemes: frozenset[str]
    ) -> None:
        self._store = store
        self._verifier = verifier
        self._url_schemes = url_schemes

    async def draft(
        self, catalog: Callable[[], Catalog], model: str, request: pb.RegisterVersionRequest
    ) -> Version:
        """The version that a request describes.

        Raises:
            InvalidArgument: Neither files nor a source URL are given, or both.
            InvalidArtifact: A file is not here, or no model that onnxruntime loads.
        """
        _check_metadata(request.metadata)
        if bool(request.files) == bool(request.source_url):
            raise InvalidArgument("give files, or source_url, and not both", field="files")
        if request.source_url:
            digest, size = await self._store.take(
                request.source_url, self._url_schemes, request.source_digest
            )
            files: tuple[File, ...] = (File("model.onnx", digest, size),)
        else:
            files = tuple([await self._file(f) for f in request.files])
        golden = await self._file(request.golden) if request.HasField("golden") else None
        named = [(file.path, file.digest) for file in files]
        digest = manifest_digest(named)
        known = decide.existing(catalog(), model, digest, golden.digest if golden else "")
        if known is not None:
            signature, provenance = known.signature, known.provenance
        else:
            signature, provenance = await self._verifier.examine(named)
        return Version(
            VersionName(model, 0),
            digest,
            files,
            signature,
            datetime.now(UTC),
            provenance,
            dict(request.metadata),
            golden,
        )

    async def _file(self, file: model_pb2.File) -> File:
        """A file of a request, which must be here; raises InvalidArtifact."""
        check_path(file.path)
        held = await self._store.held(file.digest)
        if not held.complete:
            raise InvalidArtifact(
                f"{file.path}: {held.committed} bytes of {file.digest} are here;"
                " upload the rest first",
                path=file.path,
                digest=file.digest,
            )
        return File(file.path, file.digest, held.committed)


def _check_metadata(metadata: Any) -> None:
    if len(metadata) > MOST_KEYS:
        raise InvalidArgument(f"metadata: {len(metadata)} keys, at most {MOST_KEYS}")
    for key, value in metadata.items():
        if not _KEY.fullmatch(key):
            raise InvalidArgument(
                f"metadata key {key!r}: letters, digits and ._/-", field="metadata"
            )
        if len(value.encode()) > LONGEST_VALUE:
            raise InvalidArgument(
                f"metadata {key!r}: longer than {LONGEST_VALUE} bytes", field="metadata"
            )
