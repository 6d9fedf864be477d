"""`RegistryService`: protobuf in and out."""

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar

import grpc

from modelyard.catalog import (
    Catalog,
    Change,
    Event,
    File,
    Host,
    HostState,
    LabelMoved,
    LabelRemoved,
    LabelRolledBack,
    Version,
    VersionDeleted,
    VersionLoaded,
    VersionRegistered,
    VersionUnloaded,
)
from modelyard.catalog.convert import (
    change_to,
    label_to,
    model_to,
    snapshot_to,
    version_to,
)
from modelyard.errors import (
    InvalidArgument,
    InvalidArtifact,
    InvalidPageToken,
    VersionNotServing,
)
from modelyard.metadata import ACTOR, REVISION
from modelyard.names import LabelName, ModelName, VersionName, check_model
from modelyard.registry.v1 import model_pb2, registry_service_pb2_grpc
from modelyard.registry.v1 import registry_service_pb2 as pb
from services.registry import decide
from services.registry.artifacts import ArtifactStore, check_path, manifest_digest
from services.registry.hosts import Leases
from services.registry.registry import Decision, Registry
from services.registry.verify import Verifier

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")

# Signs of life on a quiet watch, in seconds.
HEARTBEAT = 2.0
# Unless the caller says otherwise: a hand-over waits so long for its version, in seconds.
HAND_OVER = 600.0
PAGE, LARGEST_PAGE = 100, 1000
MOST_KEYS, LONGEST_VALUE = 64, 1024
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


class RegistryServicer(registry_service_pb2_grpc.RegistryServiceServicer):
    """Turns requests into decisions and catalogues into responses."""

    def __init__(
        self,
        registry: Registry,
        store: ArtifactStore,
        verifier: Verifier,
        leases: Leases,
        url_schemes: frozenset[str],
    ) -> None:
        self._registry = registry
        self._store = store
        self._verifier = verifier
        self._leases = leases
        self._url_schemes = url_schemes

    @property
    def _catalog(self) -> Catalog:
        return self._registry.catalog

    async def RegisterVersion(
        self, request: pb.RegisterVersionRequest, context: Context
    ) -> pb.RegisterVersionResponse:
        """Checks the files and makes them the next version."""
        model = check_model(request.model)

        def fits(event: Event) -> bool:
            return isinstance(event, VersionRegistered) and event.version.name.model == model

        made = self._registry.made(request.request_id)
        if made is None:
            draft = await self._draft(model, request)
            made = await commit(
                self._registry,
                lambda catalog: decide.register(catalog, draft, request.allow_duplicate),
                fits,
                request,
                context,
            )
            if made is None:
                golden = draft.golden.digest if draft.golden else ""
                known = decide.existing(self._catalog, model, draft.digest, golden)
                assert known is not None, "nothing was made because it exists"
                return pb.RegisterVersionResponse(version=version_to(known), created=False)
        check_made(made, fits, request)
        assert isinstance(made.event, VersionRegistered)
        return pb.RegisterVersionResponse(version=version_to(made.event.version), created=True)

    async def _draft(self, model: str, request: pb.RegisterVersionRequest) -> Version:
        """The version that a request describes, checked; its number is still to be given."""
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
        known = decide.existing(self._catalog, model, digest, golden.digest if golden else "")
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

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """One model."""
        name = ModelName.parse(request.name)
        return pb.GetModelResponse(model=model_to(self._catalog.model(name.model)))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """The models by name."""
        models = sorted(self._catalog.models.values(), key=lambda m: m.name)
        page, token = _page(models, [m.name for m in models], request)
        return pb.ListModelsResponse(models=map(model_to, page), next_page_token=token)

    async def GetVersion(
        self, request: pb.GetVersionRequest, context: Context
    ) -> pb.GetVersionResponse:
        """One version."""
        version = self._catalog.version(VersionName.parse(request.name))
        return pb.GetVersionResponse(version=version_to(version))

    async def ListVersions(
        self, request: pb.ListVersionsRequest, context: Context
    ) -> pb.ListVersionsResponse:
        """A model's versions, the newest first."""
        held = self._catalog.model(ModelName.parse(request.parent).model).versions
        versions = [held[number] for number in sorted(held, reverse=True)]
        page, token = _page(versions, [_falling(v.name.number) for v in versions], request)
        return pb.ListVersionsResponse(versions=map(version_to, page), next_page_token=token)

    async def DeleteVersion(
        self, request: pb.DeleteVersionRequest, context: Context
    ) -> pb.DeleteVersionResponse:
        """Deletes a version that nothing holds."""
        name = VersionName.parse(request.name)
        await commit(
            self._registry,
            lambda catalog: decide.delete(catalog, name, self._leases.hosts),
            lambda event: event == VersionDeleted(name),
            request,
            context,
        )
        return pb.DeleteVersionResponse()

    async def LoadVersion(
        self, request: pb.LoadVersionRequest, context: Context
    ) -> pb.LoadVersionResponse:
        """Asks for hosts of a version."""
        name = VersionName.parse(request.name)
        change = await commit(
            self._registry,
            lambda c: decide.load(c, name),
            lambda event: event == VersionLoaded(name),
            request,
            context,
        )
        version = self._registry.after(change).version(name)
        return pb.LoadVersionResponse(version=version_to(version))

    async def UnloadVersion(
        self, request: pb.UnloadVersionRequest, context: Context
    ) -> pb.UnloadVersionResponse:
        """Takes LoadVersion back."""
        name = VersionName.parse(request.name)
        change = await commit(
            self._registry,
            lambda c: decide.unload(c, name),
            lambda event: event == VersionUnloaded(name),
            request,
            context,
        )
        version = self._registry.after(change).version(name)
        return pb.UnloadVersionResponse(version=version_to(version))

    async def MoveLabel(
        self, request: pb.MoveLabelRequest, context: Context
    ) -> pb.MoveLabelResponse:
        """Points a label at a version, once that serves where the old one does."""
        name = LabelName.parse(request.name)
        if not self._registry.made(request.request_id):
            event = decide.move(self._catalog, name, request.version, request.etag)
            if event is not None and not request.immediate:
                await self._prepare(name, request.version, request.note, context)
        change = await commit(
            self._registry,
            lambda c: decide.move(c, name, request.version, request.etag),
            lambda event: event == LabelMoved(name.model, name.label, request.version),
            request,
            context,
        )
        label = self._registry.after(change).label(name.model, name.label)
        return pb.MoveLabelResponse(label=label_to(name.model, label))

    async def RollBackLabel(
        self, request: pb.RollBackLabelRequest, context: Context
    ) -> pb.RollBackLabelResponse:
        """Points a label back at the version before."""
        name = LabelName.parse(request.name)
        if not self._registry.made(request.request_id):
            decide.roll_back(self._catalog, name, request.etag)
            if not request.immediate:
                number = decide.back(self._catalog, name)
                await self._prepare(name, number, request.note, context)
        change = await commit(
            self._registry,
            lambda c: decide.roll_back(c, name, request.etag),
            lambda event: (
                isinstance(event, LabelRolledBack)
                and (event.model, event.label) == (name.model, name.label)
            ),
            request,
            context,
        )
        label = self._registry.after(change).label(name.model, name.label)
        return pb.RollBackLabelResponse(label=label_to(name.model, label))

    async def RemoveLabel(
        self, request: pb.RemoveLabelRequest, context: Context
    ) -> pb.RemoveLabelResponse:
        """Removes a label."""
        name = LabelName.parse(request.name)
        await commit(
            self._registry,
            lambda c: decide.remove(c, name, request.etag),
            lambda event: event == LabelRemoved(name.model, name.label),
            request,
            context,
        )
        return pb.RemoveLabelResponse()

    async def _prepare(self, name: LabelName, number: int, note: str, context: Context) -> None:
        """Sees that a version serves before it takes over from one that does.

        Raises:
            VersionNotServing: Its hosts fail, or the call's time is over; the label stays.
        """
        label = self._catalog.model(name.model).labels.get(name.label)
        target = VersionName(name.model, number)
        if label is None or not self._serving(VersionName(name.model, label.version)):
            return
        if self._serving(target):
            return
        await self._registry.commit(
            lambda catalog: None if target in catalog.wanted() else decide.load(catalog, target),
            actor=_actor(context),
            note=note or f"before it becomes {name.label}",
        )
        loop = asyncio.get_running_loop()
        until = loop.time() + (context.time_remaining() or HAND_OVER)
        while not self._serving(target):
            left = until - loop.time() - 0.05
            failed = [h for h in self._of(target) if h.state is HostState.FAILED or h.restarts > 1]
            if failed or left <= 0:
                why = failed[0].reason if failed else "it did not serve in time"
                raise VersionNotServing(
                    f"{name} stays: {target} does not serve: {why}", version=str(target)
                )
            await self._leases.changed(min(left, 1.0))

    def _of(self, version: VersionName) -> list[Host]:
        return [host for host in self._leases.hosts if host.version == version]

    def _serving(self, version: VersionName) -> bool:
        return any(host.state is HostState.SERVING for host in self._of(version))

    async def ListChanges(
        self, request: pb.ListChangesRequest, context: Context
    ) -> pb.ListChangesResponse:
        """The changes, the newest first."""
        changes = self._registry.changes
        if request.parent:
            model = ModelName.parse(request.parent).model
            self._catalog.model(model)
            changes = [change for change in changes if change.model == model]
        newest = changes[::-1]
        page, token = _page(newest, [_falling(c.revision) for c in newest], request)
        return pb.ListChangesResponse(changes=map(change_to, page), next_page_token=token)

    async def Watch(
        self, request: pb.WatchRequest, context: Context
    ) -> AsyncIterator[pb.WatchResponse]:
        """A snapshot unless a revision is given, then every change."""
        revision = request.revision
        if not revision:
            catalog = self._catalog
            revision = catalog.revision
            yield pb.WatchResponse(snapshot=snapshot_to(catalog))
        async for change in self._registry.watch(revision, HEARTBEAT):
            if change is None:
                yield pb.WatchResponse(heartbeat_revision=self._catalog.revision)
            else:
                yield pb.WatchResponse(change=change_to(change))


async def commit(
    registry: Registry,
    decision: Decision,
    fits: Callable[[Event], bool],
    request: Any,
    context: Context,
) -> Change | None:
    """Makes a request's change and tells the caller the revision from which it holds.

    Raises:
        InvalidArgument: The request's id made a change before, and not one that `fits`.
    """
    change = await registry.commit(
        decision, actor=_actor(context), note=request.note, request_id=request.request_id
    )
    if change is not None:
        check_made(change, fits, request)
    revision = change.revision if change else registry.catalog.revision
    context.set_trailing_metadata(((REVISION, str(revision)),))
    return change


def check_made(change: Change, fits: Callable[[Event], bool], request: Any) -> None:
    """Raises InvalidArgument where a request's id made another change than it asks for now."""
    if not fits(change.event):
        raise InvalidArgument(
            f"request_id {request.request_id!r} made another change", field="request_id"
        )


def _actor(context: Context) -> str:
    """Who asks, as far as it says so; its address otherwise."""
    for key, value in context.invocation_metadata() or ():
        if key == ACTOR and isinstance(value, str):
            return value[:LONGEST_VALUE]
    return context.peer() or ""


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


def _falling(number: int) -> str:
    """A key that sorts greater numbers first."""
    return f"{10**18 - number:019d}"


def _page(items: Sequence[T], keys: Sequence[str], request: Any) -> tuple[Sequence[T], str]:
    """One page of sorted items, and the token of the next: the key after which it begins."""
    size = request.page_size
    if size < 0:
        raise InvalidArgument(f"page_size {size}: not negative", field="page_size")
    size = min(size or PAGE, LARGEST_PAGE)
    begin = 0
    if request.page_token:
        try:
            after = base64.urlsafe_b64decode(request.page_token.encode()).decode()
        except (binascii.Error, UnicodeError):
            raise InvalidPageToken(f"page_token {request.page_token!r}") from None
        if not after.startswith("k:"):
            raise InvalidPageToken(f"page_token {request.page_token!r}")
        begin = sum(key <= after[2:] for key in keys)
    page = items[begin : begin + size]
    if begin + size >= len(items):
        return page, ""
    last = keys[begin + size - 1]
    return page, base64.urlsafe_b64encode(f"k:{last}".encode()).decode()
