"""A registry that is killed, lied to and cut off: what it acknowledged is there, and no half."""

import hashlib
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from modelyard.errors import InvalidArgument, ModelyardError, StoreUnavailable
from modelyard.registry.v1 import artifact_service_pb2 as artifacts
from modelyard.registry.v1 import artifact_service_pb2_grpc, model_pb2, registry_service_pb2_grpc
from modelyard.registry.v1 import registry_service_pb2 as pb
from modelyard.status import from_rpc_error
from tests.kit.registry import RedisProcess, RegistryProcess, start_redis, start_registry
from tests.kit.scale import scale


class Stubs:
    """A registry's services; errors come typed."""

    def __init__(self, address: str) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        self.channel = grpc.insecure_channel(address, options=options)
        self.registry = registry_service_pb2_grpc.RegistryServiceStub(self.channel)
        self.artifacts = artifact_service_pb2_grpc.ArtifactServiceStub(self.channel)

    def upload(self, content: bytes, path: str = "model.onnx") -> model_pb2.File:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        request = artifacts.WriteBlobRequest(digest=digest, size_bytes=len(content), data=content)
        self.artifacts.WriteBlob(iter([request]), timeout=20)
        return model_pb2.File(path=path, digest=digest, size_bytes=len(content))

    def refusal(self, files: list[model_pb2.File], model: str = "m") -> ModelyardError:
        with pytest.raises(grpc.RpcError) as caught:
            self.registry.RegisterVersion(
                pb.RegisterVersionRequest(model=model, files=files), timeout=60
            )
        return from_rpc_error(caught.value)

    def models(self) -> dict[str, model_pb2.Model]:
        found = self.registry.ListModels(pb.ListModelsRequest(), timeout=10).models
        return {m.name.removeprefix("models/"): m for m in found}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    with start_redis(tmp_path / "redis") as redis:
        yield redis


@pytest.fixture
def process(redis: RedisProcess, tmp_path: Path) -> Iterator[RegistryProcess]:
    with start_registry(redis, tmp_path / "registry") as process:
        yield process


@pytest.fixture
def stubs(process: RegistryProcess) -> Iterator[Stubs]:
    stubs = Stubs(process.address)
    yield stubs
    stubs.channel.close()


def with_external(location: str) -> bytes:
    """A model that says it keeps a tensor elsewhere."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["X", "w"], ["Y"])],
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [1])],
    )
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    graph.initializer.append(tensor)
    return helper.make_model(graph).SerializeToString()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not an ONNX file"),
        (b"this is no model", "not an ONNX file"),
        (np.random.default_rng(1).bytes(4096), "not an ONNX file"),
        (with_external("../../etc/passwd"), "leads out of the artifact's folder"),
        (with_external("/etc/passwd"), "leads out of the artifact's folder"),
        (with_external("weights.bin"), "is not among the files"),
    ],
)
def test_a_bad_file_is_refused_and_leaves_nothing(stubs: Stubs, content: bytes, why: str) -> None:
    refused = stubs.refusal([stubs.upload(content)])
    assert (refused.reason, why in refused.message) == ("INVALID_ARTIFACT", True), refused
    assert stubs.models() == {}


def test_a_corrupt_model_is_refused(stubs: Stubs, tmp_path: Path) -> None:
    model = onnx.load(scale(tmp_path, 2.0))
    model.graph.node[0].op_type = "NoSuchOperator"
    refused = stubs.refusal([stubs.upload(model.SerializeToString())])
    assert refused.reason == "INVALID_ARTIFACT"
    whole = scale(tmp_path, 2.0).read_bytes()
    assert stubs.refusal([stubs.upload(whole[: len(whole) // 2])]).reason == "INVALID_ARTIFACT"
    assert stubs.models() == {}


def test_a_truncated_upload_goes_on_where_it_was(
    stubs: Stubs, process: RegistryProcess, tmp_path: Path
) -> None:
    content = scale(tmp_path, 2.0).read_bytes()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"

    def write(offset: int, data: bytes) -> artifacts.WriteBlobResponse:
        request = artifacts.WriteBlobRequest(
            digest=digest, size_bytes=len(content), offset=offset, data=data
        )
        return stubs.artifacts.WriteBlob(iter([request]), timeout=20)

    assert not write(0, content[:40]).complete
    file = model_pb2.File(path="model.onnx", digest=digest)
    assert stubs.refusal([file]).reason == "INVALID_ARTIFACT"
    process.kill()
    process.start()
    held = stubs.artifacts.GetBlob(
        artifacts.GetBlobRequest(digest=digest), timeout=20, wait_for_ready=True
    )
    assert (held.committed_bytes, held.complete) == (40, False)
    with pytest.raises(grpc.RpcError) as caught:
        write(0, content)
    error = from_rpc_error(caught.value)
    assert (error.reason, error.metadata["committed_bytes"]) == ("OFFSET_MISMATCH", "40")
    assert write(40, content[40:]).complete
    stubs.registry.RegisterVersion(pb.RegisterVersionRequest(model="m", files=[file]), timeout=60)


def test_bytes_with_another_digest_are_dropped(stubs: Stubs) -> None:
    digest = f"sha256:{'0' * 64}"
    request = artifacts.WriteBlobRequest(digest=digest, size_bytes=3, data=b"abc")
    with pytest.raises(grpc.RpcError) as caught:
        stubs.artifacts.WriteBlob(iter([request]), timeout=20)
    assert from_rpc_error(caught.value).reason == "INVALID_ARTIFACT"
    assert stubs.artifacts.GetBlob(artifacts.GetBlobRequest(digest=digest)).committed_bytes == 0


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "x" * 129])
def test_a_bad_name_is_refused(stubs: Stubs, name: str) -> None:
    refused = stubs.refusal([model_pb2.File(path="model.onnx")], model=name)
    assert isinstance(refused, InvalidArgument)
    assert refused.reason == "INVALID_NAME"


def test_without_redis_reads_go_on_and_writes_say_so(
    stubs: Stubs, redis: RedisProcess, tmp_path: Path
) -> None:
    file = stubs.upload(scale(tmp_path, 2.0).read_bytes())
    stubs.registry.RegisterVersion(pb.RegisterVersionRequest(model="m", files=[file]), timeout=60)
    redis.kill()
    assert list(stubs.models()) == ["m"]
    move = pb.MoveLabelRequest(name="models/m/labels/live", version=1, request_id="move-1")
    with pytest.raises(grpc.RpcError) as caught:
        stubs.registry.MoveLabel(move, timeout=30)
    assert isinstance(from_rpc_error(caught.value), StoreUnavailable)
    redis.start()
    end = time.monotonic() + 30
    while True:
        try:
            stubs.registry.MoveLabel(move, timeout=30)
            break
        except grpc.RpcError as error:
            assert isinstance(from_rpc_error(error), StoreUnavailable)
            assert time.monotonic() < end
    assert stubs.models()["m"].labels[0].version == 1


def test_kill_nine_of_everything_loses_nothing_and_halves_nothing(
    stubs: Stubs, process: RegistryProcess, redis: RedisProcess, tmp_path: Path
) -> None:
    """A writer registers and moves a label, again and again; all is killed in the midst of it."""
    file = stubs.upload(scale(tmp_path, 2.0).read_bytes())
    ending = threading.Event()
    registered: list[int] = []
    moved: list[int] = [0]

    def patiently(method: Any, request: Any) -> Any:
        """The same request, with the same id, until it is acknowledged."""
        while True:
            try:
                return method(request, timeout=20, wait_for_ready=True)
            except grpc.RpcError:
                time.sleep(0.05)

    def write() -> None:
        while not ending.is_set():
            reply = patiently(
                stubs.registry.RegisterVersion,
                pb.RegisterVersionRequest(
                    model="m", files=[file], allow_duplicate=True, request_id=str(uuid.uuid4())
                ),
            )
            registered.append(reply.version.number)
            patiently(
                stubs.registry.MoveLabel,
                pb.MoveLabelRequest(
                    name="models/m/labels/live",
                    version=registered[-1],
                    request_id=str(uuid.uuid4()),
                ),
            )
            moved.append(registered[-1])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for round_ in range(6):
            before = len(moved)
            end = time.monotonic() + 60
            while len(moved) < before + 3:
                assert time.monotonic() < end, "the writer does not get on"
                time.sleep(0.005)
            if round_ % 3 != 1:
                process.kill()
            if round_ % 3 != 0:
                redis.kill()
                redis.start()
            if round_ % 3 != 1:
                process.start()
    finally:
        ending.set()
        writer.join(120)
    process.kill()
    redis.kill()
    redis.start()
    process.start()
    assert registered == list(range(1, len(registered) + 1)), "one version for each request"
    listed = stubs.registry.ListVersions(
        pb.ListVersionsRequest(parent="models/m", page_size=1000), timeout=20, wait_for_ready=True
    ).versions
    assert [v.number for v in reversed(listed)] == registered
    labels = {la.name.rpartition("/")[2]: la for la in stubs.models()["m"].labels}
    assert labels["live"].version == moved[-1]
    assert labels["previous"].version == moved[-2]
    changes = stubs.registry.ListChanges(pb.ListChangesRequest(page_size=1000), timeout=20).changes
    assert [c.revision for c in reversed(changes)] == list(range(1, len(changes) + 1))
    assert len(changes) == 2 * len(registered)
