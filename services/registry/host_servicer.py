"""`HostService`: protobuf in and out."""

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from modelyard.catalog import Host
from modelyard.catalog.convert import host_to, hosts_from
from modelyard.errors import InvalidArgument
from modelyard.names import ModelName, VersionName
from modelyard.registry.v1 import host_service_pb2 as pb
from modelyard.registry.v1 import host_service_pb2_grpc
from services.registry.hosts import Leases

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

# A quiet watch repeats the hosts so often, as a sign of life, in seconds.
HEARTBEAT = 2.0
LONGEST_TTL = 300.0


class HostServicer(host_service_pb2_grpc.HostServiceServicer):
    """Takes reports, and tells who serves."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    async def ReportHosts(
        self, request: pb.ReportHostsRequest, context: Context
    ) -> pb.ReportHostsResponse:
        """Replaces what a supervisor reported."""
        if not request.supervisor:
            raise InvalidArgument("supervisor is empty", field="supervisor")
        ttl = request.ttl.ToTimedelta().total_seconds()
        if not 0 < ttl <= LONGEST_TTL:
            raise InvalidArgument(
                f"ttl {ttl:g}s: above 0 and at most {LONGEST_TTL:g} s", field="ttl"
            )
        await self._leases.report(request.supervisor, hosts_from(request.hosts), ttl)
        return pb.ReportHostsResponse()

    async def ListHosts(
        self, request: pb.ListHostsRequest, context: Context
    ) -> pb.ListHostsResponse:
        """The hosts of everything, of a model, or of a version."""
        hosts = [host for host in self._leases.hosts if _below(host, request.parent)]
        return pb.ListHostsResponse(hosts=map(host_to, hosts))

    async def WatchHosts(
        self, request: pb.WatchHostsRequest, context: Context
    ) -> AsyncIterator[pb.WatchHostsResponse]:
        """All hosts, at each change."""
        async for hosts in self._leases.watch(HEARTBEAT):
            yield pb.WatchHostsResponse(hosts=map(host_to, hosts))


def _below(host: Host, parent: str) -> bool:
    if not parent:
        return True
    if "/versions/" in parent:
        return host.version == VersionName.parse(parent)
    return host.version.model == ModelName.parse(parent).model
