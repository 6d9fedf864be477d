"""What an evaluation asks of the registry: hosts of its own, and that calls are recorded."""

from typing import Any

import grpc

from modelyard.calls import answer
from modelyard.catalog.hosts import SHADOW
from modelyard.errors import ModelyardError, NotFound, StaleEtag
from modelyard.gateway.v1 import route_pb2
from modelyard.metadata import ACTOR
from modelyard.names import VersionName
from modelyard.registry.v1 import registry_service_pb2 as registry
from modelyard.registry.v1 import registry_service_pb2_grpc as registry_grpc
from modelyard.registry.v1 import route_service_pb2 as routes
from modelyard.registry.v1 import route_service_pb2_grpc as routes_grpc
from modelyard.status import from_rpc_error

_TIMEOUT = 10.0
_ME = ((ACTOR, "shadow"),)
# Writers of one route that come in between, until it is given up.
_TRIES = 10


class Yard:
    """Asks the registry.

    Args:
        channel: To the registry.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._registry = registry_grpc.RegistryServiceStub(channel)
        self._routes = routes_grpc.RouteServiceStub(channel)

    async def load(self, version: VersionName, note: str) -> None:
        """Asks for hosts of a version that only evaluations ask; raises ModelyardError."""
        request = registry.LoadVersionRequest(name=str(version), pool=SHADOW, note=note)
        await self._send(self._registry.LoadVersion, request)

    async def unload(self, version: VersionName, note: str) -> None:
        """Takes `load` back; raises ModelyardError."""
        request = registry.UnloadVersionRequest(name=str(version), pool=SHADOW, note=note)
        try:
            await self._send(self._registry.UnloadVersion, request)
        except NotFound:
            return

    async def record(self, version: VersionName, sample: float, note: str) -> None:
        """Has a share of the calls recorded for a version; raises ModelyardError."""

        def change(route: route_pb2.Route) -> bool:
            for shadow in route.shadow:
                if shadow.target.version == version.number:
                    if shadow.sample >= sample:
                        return False
                    shadow.sample = sample
                    return True
            route.shadow.add(sample=sample).target.version = version.number
            return True

        await self._change_route(version.model, change, note)

    async def stop_recording(self, version: VersionName, note: str) -> None:
        """Takes `record` back; raises ModelyardError."""

        def change(route: route_pb2.Route) -> bool:
            kept = [s for s in route.shadow if s.target.version != version.number]
            if len(kept) == len(route.shadow):
                return False
            del route.shadow[:]
            route.shadow.extend(kept)
            return True

        try:
            await self._change_route(version.model, change, note)
        except NotFound:
            return

    async def _change_route(self, model: str, change: Any, note: str) -> None:
        name = f"models/{model}/route"
        for left in range(_TRIES, 0, -1):
            reply = await self._send(self._routes.GetRoute, routes.GetRouteRequest(name=name))
            route = route_pb2.Route()
            route.CopyFrom(reply.route)
            if not change(route):
                return
            request = routes.ReplaceRouteRequest(route=route, note=note)
            try:
                await self._send(self._routes.ReplaceRoute, request)
                return
            except StaleEtag:
                if left == 1:
                    raise

    async def _send(self, method: Any, request: Any) -> Any:
        try:
            return await answer(method(request, timeout=_TIMEOUT, metadata=_ME))
        except grpc.aio.AioRpcError as error:
            known: ModelyardError = from_rpc_error(error)
            raise known from None
