"""Programs that read: the catalogue, hosts, routes, and what a model takes."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from modelyard.client.inference import VersionLike, version_text
from modelyard.client.steps import Method, Program, unary
from modelyard.gateway.v1 import gateway_service_pb2 as gateway
from modelyard.gateway.v1 import route_pb2
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.names import ModelName, VersionName, check_model
from modelyard.registry.v1 import change_pb2, host_pb2, model_pb2
from modelyard.registry.v1 import host_service_pb2 as hosts
from modelyard.registry.v1 import registry_service_pb2 as registry
from modelyard.registry.v1 import route_service_pb2 as routes

REGISTRY = "modelyard.registry.v1.RegistryService"
ROUTES = "modelyard.registry.v1.RouteService"
INFERENCE = "inference.GRPCInferenceService"
GATEWAY = "modelyard.gateway.v1.GatewayService"

GET_MODEL = Method(REGISTRY, "GetModel", registry.GetModelResponse)
LIST_MODELS = Method(REGISTRY, "ListModels", registry.ListModelsResponse)
GET_VERSION = Method(REGISTRY, "GetVersion", registry.GetVersionResponse)
LIST_VERSIONS = Method(REGISTRY, "ListVersions", registry.ListVersionsResponse)
LIST_CHANGES = Method(REGISTRY, "ListChanges", registry.ListChangesResponse)
LIST_HOSTS = Method("modelyard.registry.v1.HostService", "ListHosts", hosts.ListHostsResponse)
GET_ROUTE = Method(ROUTES, "GetRoute", routes.GetRouteResponse)
MODEL_INFER = Method(INFERENCE, "ModelInfer", oip.ModelInferResponse)
MODEL_STREAM_INFER = Method(INFERENCE, "ModelStreamInfer", oip.ModelStreamInferResponse)
MODEL_METADATA = Method(INFERENCE, "ModelMetadata", oip.ModelMetadataResponse)
MODEL_READY = Method(INFERENCE, "ModelReady", oip.ModelReadyResponse)
SERVER_READY = Method(INFERENCE, "ServerReady", oip.ServerReadyResponse)
EXPLAIN_ROUTE = Method(GATEWAY, "ExplainRoute", gateway.ExplainRouteResponse)
GET_CURVES = Method(GATEWAY, "GetCurves", gateway.GetCurvesResponse)
SUGGEST = Method(GATEWAY, "SuggestRendezvous", gateway.SuggestRendezvousResponse)
GET_STATUS = Method(GATEWAY, "GetStatus", gateway.GetStatusResponse)
WATCH_TRAFFIC = Method(GATEWAY, "WatchTraffic", gateway.WatchTrafficResponse)

PAGE = 1000
TIMEOUT = 60.0


def models() -> Program[list[model_pb2.Model]]:
    """Every model, by name."""
    found: list[model_pb2.Model] = []
    token = ""
    while True:
        request = registry.ListModelsRequest(page_size=PAGE, page_token=token)
        page = yield from unary(LIST_MODELS, request, TIMEOUT)
        found += page.models
        token = page.next_page_token
        if not token:
            return found


def model(name: str) -> Program[model_pb2.Model]:
    """One model."""
    request = registry.GetModelRequest(name=str(ModelName(check_model(name))))
    return (yield from unary(GET_MODEL, request, TIMEOUT)).model


def versions(name: str) -> Program[list[model_pb2.Version]]:
    """Every version of a model, the newest first."""
    parent = str(ModelName(check_model(name)))
    found: list[model_pb2.Version] = []
    token = ""
    while True:
        request = registry.ListVersionsRequest(parent=parent, page_size=PAGE, page_token=token)
        page = yield from unary(LIST_VERSIONS, request, TIMEOUT)
        found += page.versions
        token = page.next_page_token
        if not token:
            return found


def version(name: VersionName) -> Program[model_pb2.Version]:
    """One version."""
    request = registry.GetVersionRequest(name=str(name))
    return (yield from unary(GET_VERSION, request, TIMEOUT)).version


def history(name: str | None, limit: int) -> Program[list[change_pb2.Change]]:
    """The latest changes, the newest first."""
    parent = "" if name is None else str(ModelName(check_model(name)))
    found: list[change_pb2.Change] = []
    token = ""
    while len(found) < limit:
        size = min(PAGE, limit - len(found))
        request = registry.ListChangesRequest(parent=parent, page_size=size, page_token=token)
        page = yield from unary(LIST_CHANGES, request, TIMEOUT)
        found += page.changes
        token = page.next_page_token
        if not token:
            break
    return found


def list_hosts(parent: str = "") -> Program[list[host_pb2.Host]]:
    """The hosts of a model or a version by its resource name; all of them when empty."""
    reply = yield from unary(LIST_HOSTS, hosts.ListHostsRequest(parent=parent), TIMEOUT)
    return list(reply.hosts)


def hosts_of(name: str | None) -> Program[list[host_pb2.Host]]:
    """The hosts of one model, or of all."""
    return (yield from list_hosts("" if name is None else str(ModelName(check_model(name)))))


def route(name: str) -> Program[route_pb2.Route]:
    """A model's route."""
    request = routes.GetRouteRequest(name=f"{ModelName(check_model(name))}/route")
    return (yield from unary(GET_ROUTE, request, TIMEOUT)).route


def metadata(name: str, version: VersionLike) -> Program[oip.ModelMetadataResponse]:
    """What a model takes and gives."""
    request = oip.ModelMetadataRequest(name=name, version=version_text(version))
    return (yield from unary(MODEL_METADATA, request, TIMEOUT))


def ready(name: str | None, version: VersionLike) -> Program[bool]:
    """Whether the yard, or one of its models, can answer."""
    if name is None:
        return (yield from unary(SERVER_READY, oip.ServerReadyRequest(), TIMEOUT)).ready
    request = oip.ModelReadyRequest(name=name, version=version_text(version))
    return (yield from unary(MODEL_READY, request, TIMEOUT)).ready


def status() -> Program[gateway.GetStatusResponse]:
    """What the gateway knows and runs."""
    return (yield from unary(GET_STATUS, gateway.GetStatusRequest(), TIMEOUT))


def explain(
    model: str,
    version: VersionLike,
    metadata: Mapping[str, str],
    deadline: float | None,
    route: route_pb2.Route | None,
) -> Program[gateway.ExplainRouteResponse]:
    """The plan that a call would get."""
    request = gateway.ExplainRouteRequest(
        model=str(ModelName(check_model(model))),
        version=version_text(version),
        metadata=metadata,
        route=route,
    )
    if route is not None:
        request.route.name = f"{request.model}/route"
    if deadline is not None:
        request.deadline.FromTimedelta(timedelta(seconds=deadline))
    return (yield from unary(EXPLAIN_ROUTE, request, TIMEOUT))


def curves(model: str) -> Program[gateway.GetCurvesResponse]:
    """The share of attempts that have answered by each moment."""
    request = gateway.GetCurvesRequest(model=str(ModelName(check_model(model))))
    return (yield from unary(GET_CURVES, request, TIMEOUT))


def suggest(
    model: str, deadline: float, miss: float, versions: Sequence[int]
) -> Program[gateway.SuggestRendezvousResponse]:
    """A rendezvous that keeps a deadline."""
    request = gateway.SuggestRendezvousRequest(
        model=str(ModelName(check_model(model))), miss=miss, versions=versions
    )
    request.deadline.FromTimedelta(timedelta(seconds=deadline))
    return (yield from unary(SUGGEST, request, TIMEOUT))
