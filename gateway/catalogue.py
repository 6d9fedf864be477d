"""The public protocol's other methods: who is ready, what a model is, what was counted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

import modelyard
from gateway.fronts.metadata import forwarded
from gateway.replicas import Replica, Replicas
from gateway.statistics import summed
from modelyard.catalog import Catalog, Host, HostState
from modelyard.errors import (
    HostGone,
    InvalidArgument,
    ModelyardError,
    NotFound,
    StoreUnavailable,
    Unimplemented,
    VersionNotServing,
)
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.inference.v2 import open_inference_pb2_grpc as oip_grpc
from modelyard.metadata import TARGET
from modelyard.names import VersionName, check_model
from modelyard.registry.v1 import registry_service_pb2 as registry
from modelyard.registry.v1 import registry_service_pb2_grpc as registry_grpc
from modelyard.status import from_rpc_error

# Advertised to clients: only what works; the first where there is a registry.
EXTENSIONS = ("model_repository", "model_configuration", "parameters", "statistics")
# Of a question to a host that is not an inference, and of a load, in seconds.
QUESTION_TIMEOUT, LOAD_TIMEOUT = 10.0, 300.0

# How the repository index names the states of hosts, the best first.
_INDEX_STATES = {
    HostState.SERVING: "READY",
    HostState.LOADING: "LOADING",
    HostState.PENDING: "LOADING",
    HostState.DRAINING: "UNLOADING",
    HostState.FAILED: "UNAVAILABLE",
}

M = TypeVar("M", bound=Message)
Context: TypeAlias = grpc.aio.ServicerContext[Message, Message]


class Catalogue(oip_grpc.GRPCInferenceServiceServicer):
    """Answers from the catalogue, the hosts, and a host of the version that is asked about.

    Args:
        catalog: Gives the catalogue as it is now.
        hosts: Gives the hosts as they are now.
        ready: Tells whether the gateway has heard from the registry.
        replicas: Where questions to hosts go.
        channel: To the registry, for loads and unloads; None for models that never change.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        hosts: Callable[[], Iterable[Host]],
        ready: Callable[[], bool],
        replicas: Replicas,
        channel: grpc.aio.Channel | None,
    ) -> None:
        self._catalog = catalog
        self._hosts = hosts
        self._ready = ready
        self._replicas = replicas
        self._registry = None if channel is None else registry_grpc.RegistryServiceStub(channel)

    async def ServerLive(
        self, request: oip.ServerLiveRequest, context: Context
    ) -> oip.ServerLiveResponse:
        """True: it answers."""
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: oip.ServerReadyRequest, context: Context
    ) -> oip.ServerReadyResponse:
        """True once the catalogue is known."""
        return oip.ServerReadyResponse(ready=self._ready())

    async def ServerMetadata(
        self, request: oip.ServerMetadataRequest, context: Context
    ) -> oip.ServerMetadataResponse:
        """Names this server and the extensions that work."""
        extensions = EXTENSIONS if self._registry is not None else EXTENSIONS[1:]
        return oip.ServerMetadataResponse(
            name="modelyard", version=modelyard.__version__, extensions=extensions
        )

    async def ModelInfer(
        self, request: oip.ModelInferRequest, context: Context
    ) -> oip.ModelInferResponse:
        """Not here: the front takes inference as bytes."""
        raise Unimplemented("inference is the front's")

    async def ModelStreamInfer(
        self, request: AsyncIterator[oip.ModelInferRequest], context: Context
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        """Not here: the front takes inference as bytes."""
        raise Unimplemented("inference is the front's")
        yield oip.ModelStreamInferResponse()

    async def ModelReady(
        self, request: oip.ModelReadyRequest, context: Context
    ) -> oip.ModelReadyResponse:
        """False for a model that does not exist, too: pollers ask before it does."""
        try:
            target = self._catalog().resolve(request.name, request.version)
        except NotFound:
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse(ready=self._replicas.serves(target))

    async def ModelMetadata(
        self, request: oip.ModelMetadataRequest, context: Context
    ) -> oip.ModelMetadataResponse:
        """What a host says of its version, with every version that serves."""
        target = self._catalog().resolve(request.name, request.version)
        reply = await self._ask(target, "ModelMetadata", request, context)
        response = oip.ModelMetadataResponse.FromString(reply)
        serving = sorted(v.number for v in self._replicas.serving() if v.model == target.model)
        response.versions[:] = [str(number) for number in serving]
        return response

    async def ModelConfig(
        self, request: oip.ModelConfigRequest, context: Context
    ) -> oip.ModelConfigResponse:
        """What a host says of its version."""
        target = self._catalog().resolve(request.name, request.version)
        reply = await self._ask(target, "ModelConfig", request, context)
        return oip.ModelConfigResponse.FromString(reply)

    async def ModelStatistics(
        self, request: oip.ModelStatisticsRequest, context: Context
    ) -> oip.ModelStatisticsResponse:
        """The sums over the replicas of each version that serves and is asked about."""
        response = oip.ModelStatisticsResponse()
        for version in self._asked_about(request.name, request.version):
            replies = await asyncio.gather(
                *(
                    self._send(replica, "ModelStatistics", oip.ModelStatisticsRequest(), context)
                    for replica in self._replicas.of(version)
                ),
                return_exceptions=True,
            )
            found = [
                stats
                for reply in replies
                if isinstance(reply, bytes)
                for stats in oip.ModelStatisticsResponse.FromString(reply).model_stats
            ]
            if found:
                response.model_stats.append(summed(found))
        return response

    async def RepositoryIndex(
        self, request: oip.RepositoryIndexRequest, context: Context
    ) -> oip.RepositoryIndexResponse:
        """Every version, in the best state that one of its hosts is in."""
        response = oip.RepositoryIndexResponse()
        by_version: dict[VersionName, list[Host]] = {}
        for host in self._hosts():
            by_version.setdefault(host.version, []).append(host)
        for model in sorted(self._catalog().models.values(), key=lambda m: m.name):
            for number in sorted(model.versions):
                hosts = by_version.get(VersionName(model.name, number), [])
                state, reason = "UNAVAILABLE", "" if hosts else "not loaded"
                for candidate, name in _INDEX_STATES.items():
                    held = [h for h in hosts if h.state is candidate]
                    if held:
                        state, reason = name, held[0].reason
                        break
                if state == "READY" or not request.ready:
                    response.models.add(
                        name=model.name, version=str(number), state=state, reason=reason
                    )
        return response

    async def RepositoryModelLoad(
        self, request: oip.RepositoryModelLoadRequest, context: Context
    ) -> oip.RepositoryModelLoadResponse:
        """Loads a version, the newest unless one is named, and returns once it serves."""
        stub = self._changeable()
        target = self._named(request.model_name, dict(request.parameters))
        await self._tell(stub.LoadVersion, registry.LoadVersionRequest(name=str(target)))
        remaining = context.time_remaining()
        loop = asyncio.get_running_loop()
        until = loop.time() + min(LOAD_TIMEOUT, remaining or LOAD_TIMEOUT)
        while not self._replicas.serves(target):
            failed = [h for h in self._hosts() if h.version == target and h.restarts]
            if failed or loop.time() >= until:
                why = failed[0].reason if failed else "it did not serve in time"
                raise VersionNotServing(f"failed to load '{target.model}', {why}")
            await self._replicas.changed(until - loop.time())
        return oip.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: oip.RepositoryModelUnloadRequest, context: Context
    ) -> oip.RepositoryModelUnloadResponse:
        """Takes a load back; a version that a label points at goes on serving."""
        stub = self._changeable()
        if "version" in request.parameters:
            targets = [self._named(request.model_name, dict(request.parameters))]
        else:
            model = self._catalog().model(request.model_name)
            targets = [
                VersionName(model.name, number)
                for number, version in model.versions.items()
                if version.loaded
            ]
        for target in targets:
            await self._tell(stub.UnloadVersion, registry.UnloadVersionRequest(name=str(target)))
        return oip.RepositoryModelUnloadResponse()

    async def _ask(
        self, target: VersionName, method: str, request: Message, context: Context
    ) -> bytes:
        """Asks one host of a version, and another one if its connection fails."""
        tried: list[Replica] = []
        while True:
            replica = self._replicas.find(target, tried)
            if replica is None or replica in tried:
                raise VersionNotServing(
                    f"Request for unknown model: '{target.model}' version {target.number}"
                    " is not at ready state",
                    model=target.model,
                    version=str(target.number),
                )
            tried.append(replica)
            try:
                return await self._send(replica, method, request, context)
            except HostGone:
                continue

    @staticmethod
    async def _send(replica: Replica, method: str, request: Message, context: Context) -> bytes:
        metadata, _ = forwarded(context.invocation_metadata() or ())
        remaining = context.time_remaining()
        return await replica.endpoint.call(
            method,
            request.SerializeToString(),
            (*metadata, (TARGET, str(replica.version))),
            QUESTION_TIMEOUT if remaining is None else min(remaining, QUESTION_TIMEOUT),
        )

    def _changeable(self) -> "registry_grpc.RegistryServiceAsyncStub":
        """The registry; raises Unimplemented where there is none."""
        if self._registry is None:
            raise Unimplemented("this server's models are those that it was started with")
        return self._registry

    def _asked_about(self, name: str, selector: str) -> Iterator[VersionName]:
        """The serving versions that a name and a selector speak of; all when both are empty."""
        wanted = None
        if name:
            self._catalog().model(name)
            if selector:
                wanted = self._catalog().resolve(name, selector)
        for version in sorted(self._replicas.serving()):
            if (not name or version.model == name) and wanted in (None, version):
                yield version

    def _named(
        self, model: str, parameters: dict[str, oip.ModelRepositoryParameter]
    ) -> VersionName:
        """The version that a load or an unload names: the newest one unless it says."""
        catalog = self._catalog()
        check_model(model)
        for name in parameters.keys() - {"version", "unload_dependents"}:
            raise InvalidArgument(f"parameter {name!r} is not known here", field=name)
        selector = parameters["version"].string_param if "version" in parameters else ""
        if selector:
            return catalog.resolve(model, selector)
        numbers = catalog.model(model).versions
        return catalog.resolve(model, str(max(numbers, default=0)))

    @staticmethod
    async def _tell(method: Callable[..., Awaitable[M]], request: Message) -> M:
        try:
            return await method(request, timeout=QUESTION_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            known: ModelyardError = from_rpc_error(error)
            if isinstance(known, HostGone):
                known = StoreUnavailable("the registry does not answer")
            raise known from None
