"""A client of a registry's services, and the few calls that every test of them needs."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from modelyard.errors import ModelyardError
from modelyard.registry.v1 import artifact_service_pb2 as artifacts
from modelyard.registry.v1 import (
    artifact_service_pb2_grpc,
    change_pb2,
    host_pb2,
    host_service_pb2,
    host_service_pb2_grpc,
    model_pb2,
    registry_service_pb2_grpc,
    route_service_pb2_grpc,
)
from modelyard.registry.v1 import registry_service_pb2 as pb
from modelyard.status import from_rpc_error

# So long may a step take on a machine that does much else; none is meant to.
PATIENCE = 60.0


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def refusal(method: Any, request: Any) -> ModelyardError:
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=PATIENCE)
    return from_rpc_error(caught.value)


def duration(seconds: float) -> Duration:
    span = Duration()
    span.FromTimedelta(timedelta(seconds=seconds))
    return span


class Client:
    """A registry's services, and the few calls that every test needs."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self.artifacts = artifact_service_pb2_grpc.ArtifactServiceStub(channel)
        self.hosts = host_service_pb2_grpc.HostServiceStub(channel)
        self.routes = route_service_pb2_grpc.RouteServiceStub(channel)

    def upload(self, content: bytes, path: str = "model.onnx") -> model_pb2.File:
        digest = digest_of(content)
        request = artifacts.WriteBlobRequest(digest=digest, size_bytes=len(content), data=content)
        self.artifacts.WriteBlob(iter([request]), timeout=PATIENCE)
        return model_pb2.File(path=path, digest=digest)

    def committed(self, digest: str) -> tuple[int, bool]:
        held = self.artifacts.GetBlob(artifacts.GetBlobRequest(digest=digest), timeout=PATIENCE)
        return held.committed_bytes, held.complete

    def download(self, digest: str) -> bytes:
        request = artifacts.ReadBlobRequest(digest=digest)
        return b"".join(p.data for p in self.artifacts.ReadBlob(request, timeout=PATIENCE))

    def register(self, model: str, file: model_pb2.File) -> int:
        """One more version; gives its number."""
        request = pb.RegisterVersionRequest(model=model, files=[file], allow_duplicate=True)
        return self.registry.RegisterVersion(request, timeout=PATIENCE).version.number

    def move(self, model: str, label: str, version: int, **given: Any) -> model_pb2.Label:
        request = pb.MoveLabelRequest(
            name=f"models/{model}/labels/{label}", version=version, **given
        )
        return self.registry.MoveLabel(request, timeout=PATIENCE).label

    def changes(self, model: str) -> list[change_pb2.Change]:
        """The oldest first."""
        request = pb.ListChangesRequest(parent=f"models/{model}", page_size=1000)
        return list(self.registry.ListChanges(request, timeout=PATIENCE).changes)[::-1]

    def report(self, supervisor: str, *hosts: host_pb2.Host, ttl: float = 300.0) -> None:
        request = host_service_pb2.ReportHostsRequest(
            supervisor=supervisor, hosts=hosts, ttl=duration(ttl)
        )
        self.hosts.ReportHosts(request, timeout=PATIENCE)

    def hosts_of(self, parent: str) -> list[str]:
        request = host_service_pb2.ListHostsRequest(parent=parent)
        return [host.id for host in self.hosts.ListHosts(request, timeout=PATIENCE).hosts]


@contextmanager
def connect(address: str) -> Iterator[Client]:
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(address, options=options) as channel:
        yield Client(channel)
