"""`RegistryService`: protobuf in and out."""

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from modelyard.catalog import (
    Catalog,
    Event,
    LabelMoved,
    LabelRemoved,
    LabelRolledBack,
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
from modelyard.names import LabelName, ModelName, VersionName, check_model
from modelyard.pages import falling, page_of
from modelyard.registry.v1 import registry_service_pb2 as pb
from modelyard.registry.v1 import registry_service_pb2_grpc
from services.registry import decide
from services.registry.artifacts import ArtifactStore
from services.registry.commits import actor_of, check_made, commit
from services.registry.draft import Drafter
from services.registry.hand_over import HandOver
from services.registry.hosts import Leases
from services.registry.registry import Registry
from services.registry.verify import Verifier

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

# Signs of life on a quiet watch, in seconds.
HEARTBEAT = 2.0


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
        self._leases = leases
        self._drafter = Drafter(store, verifier, url_schemes)
        self._hand_over = HandOver(registry, leases)

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
            draft = await self._drafter.draft(lambda: self._catalog, model, request)
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

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """One model."""
        name = ModelName.parse(request.name)
        return pb.GetModelResponse(model=model_to(self._catalog.model(name.model)))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """The models by name."""
        models = sorted(self._catalog.models.values(), key=lambda m: m.name)
        page, token = page_of(models, [m.name for m in models], request)
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
        page, token = page_of(versions, [falling(v.name.number) for v in versions], request)
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
            lambda c: decide.load(c, name, request.pool),
            lambda event: event == VersionLoaded(name, request.pool),
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
            lambda c: decide.unload(c, name, request.pool),
            lambda event: event == VersionUnloaded(name, request.pool),
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
        await self._hand_over.prepare(
            name,
            number,
            actor=actor_of(context),
            note=note,
            timeout=context.time_remaining(),
        )

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
        page, token = page_of(newest, [falling(c.revision) for c in newest], request)
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
