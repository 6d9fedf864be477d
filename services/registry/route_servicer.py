"""`RouteService`: protobuf in and out."""

from typing import Any, TypeAlias

import grpc

from modelyard.catalog import Route, RouteRemoved, RouteReplaced
from modelyard.catalog.convert_route import model_of, route_from, route_to
from modelyard.registry.v1 import route_service_pb2 as pb
from modelyard.registry.v1 import route_service_pb2_grpc
from services.registry import decide
from services.registry.commits import commit
from services.registry.registry import Registry

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class RouteServicer(route_service_pb2_grpc.RouteServiceServicer):
    """Keeps one route a model."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def GetRoute(self, request: pb.GetRouteRequest, context: Context) -> pb.GetRouteResponse:
        """A model's route, or the default one."""
        return pb.GetRouteResponse(route=route_to(self._route(model_of(request.name))))

    def _route(self, model: str) -> Route:
        catalog = self._registry.catalog
        catalog.model(model)
        return catalog.routes.get(model) or Route(model)

    async def ReplaceRoute(
        self, request: pb.ReplaceRouteRequest, context: Context
    ) -> pb.ReplaceRouteResponse:
        """Sets a model's route, or only checks it."""
        route = route_from(request.route)
        etag = request.route.etag
        if request.validate_only:
            decide.replace_route(self._registry.catalog, route, etag)
            return pb.ReplaceRouteResponse(route=route_to(route))
        change = await commit(
            self._registry,
            lambda c: decide.replace_route(c, route, etag),
            lambda event: isinstance(event, RouteReplaced) and event.route.model == route.model,
            request,
            context,
        )
        made = self._registry.after(change).routes[route.model]
        return pb.ReplaceRouteResponse(route=route_to(made))

    async def RemoveRoute(
        self, request: pb.RemoveRouteRequest, context: Context
    ) -> pb.RemoveRouteResponse:
        """Removes a model's route."""
        model = model_of(request.name)
        await commit(
            self._registry,
            lambda c: decide.remove_route(c, model, request.etag),
            lambda event: event == RouteRemoved(model),
            request,
            context,
        )
        return pb.RemoveRouteResponse()
