"""Files that kill or hang what tries them, and a disk that is full: nothing else is harmed."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import onnx
import pytest

from modelyard.registry.v1 import artifact_service_pb2 as artifacts
from modelyard.registry.v1 import model_pb2
from modelyard.registry.v1 import registry_service_pb2 as pb
from modelyard.status import from_rpc_error
from tests.kit.registry import RedisProcess, RegistryProcess, start_redis, start_registry
from tests.kit.registry_client import PATIENCE, Client, connect, digest_of, refusal, wait_until
from tests.kit.scale import scale

# Python runs this at each start of a process that finds it: in the probe it does what a fault of
# onnxruntime would, to the files that ask for it. Nothing of the registry is replaced.
_FAULTS = """
import ctypes, os, resource, sys, time

if "services.registry.probe" in sys.orig_argv:
    with open(sys.orig_argv[-1], "rb") as file:
        content = file.read()
    if content == b"segfault":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)
    elif content == b"exit":
        os._exit(3)
    elif content == b"hang":
        with open(os.environ["HANGING"] + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.replace(os.environ["HANGING"] + ".new", os.environ["HANGING"])
        time.sleep(3600)
"""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    with start_redis(tmp_path / "redis") as redis:
        yield redis


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """Where a probe that hangs leaves its process id."""
    return tmp_path / "hanging"


@pytest.fixture
def start(redis: RedisProcess, tmp_path: Path, hanging: Path) -> Any:
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "sitecustomize.py").write_text(_FAULTS)
    env = {"PYTHONPATH": str(tmp_path / "faults"), "HANGING": str(hanging)}

    @contextmanager
    def begin(*flags: str) -> Iterator[tuple[RegistryProcess, Client]]:
        with (
            start_registry(redis, tmp_path / "registry", *flags, env=env) as process,
            connect(process.address) as client,
        ):
            yield process, client

    return begin


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def leftovers(process: RegistryProcess) -> list[Path]:
    """What a try, a fetch or an upload has left in the registry's folder of uploads."""
    uploads = process.artifacts / "uploads"
    return [path for path in uploads.rglob("*") if path != uploads / "trying"]


def register(client: Client, model: str, file: model_pb2.File) -> pb.RegisterVersionRequest:
    return pb.RegisterVersionRequest(model=model, files=[file])


def test_a_file_that_kills_the_probe_kills_nothing_else(start: Any, tmp_path: Path) -> None:
    with start() as (process, client):
        for content, code, told in (
            (b"segfault", "INVALID_ARTIFACT", "kills the process that loads it (SIGSEGV)"),
            # An end that tells nothing is the probe's own fault, not the file's.
            (b"exit", "INTERNAL", "the probe ended with 3"),
        ):
            file = client.upload(content)
            refused = refusal(client.registry.RegisterVersion, register(client, "bad", file))
            assert (refused.reason, told in refused.message) == (code, True), refused
            found = refusal(client.registry.GetModel, pb.GetModelRequest(name="models/bad"))
            assert found.reason == "MODEL_NOT_FOUND"
        assert process.process is not None
        assert process.process.poll() is None, "the registry itself goes on"
        assert leftovers(process) == []
        good = client.upload(scale(tmp_path, 2.0).read_bytes())
        assert client.register("good", good) == 1


def test_while_a_file_hangs_its_probe_all_else_goes_on(
    start: Any, hanging: Path, tmp_path: Path
) -> None:
    with start() as (process, client):
        bad = client.upload(b"hang")
        good = client.upload(scale(tmp_path, 2.0).read_bytes())
        waiting = client.registry.RegisterVersion.future(
            register(client, "bad", bad), timeout=4 * PATIENCE
        )
        try:
            wait_until(hanging.exists)
            pid = int(hanging.read_text())
            assert client.register("good", good) == 1
            assert client.move("good", "live", 1).version == 1
            assert not waiting.done()
            assert not gone(pid)
        finally:
            # Nobody waits any more: the process must not stay behind.
            waiting.cancel()
        wait_until(lambda: gone(pid))
        wait_until(lambda: leftovers(process) == [])


def test_a_file_that_hangs_its_probe_is_given_up(start: Any, hanging: Path) -> None:
    with start("--load-timeout", "1") as (process, client):
        file = client.upload(b"hang")
        # More than are tried at a time: none keeps its place.
        for _ in range(3):
            refused = refusal(client.registry.RegisterVersion, register(client, "bad", file))
            assert refused.reason == "INVALID_ARTIFACT"
            assert "did not load within 1 s" in refused.message
        if hanging.exists():
            assert gone(int(hanging.read_text()))
        assert leftovers(process) == []


# The disk is full.


@contextmanager
def full(process: RegistryProcess, largest: int) -> Iterator[None]:
    """No file of the process grows beyond so many bytes; to it, that is a disk that is full."""
    assert process.process is not None
    pid = process.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


LIMIT = 300_001


@pytest.fixture
def large(tmp_path: Path) -> bytes:
    """A model larger than the limit, whose bytes are not all alike."""
    model = onnx.load(scale(tmp_path, 2.0))
    model.doc_string = " ".join(map(str, range(100_000)))
    content: bytes = model.SerializeToString()
    assert len(content) > LIMIT
    return content


def pieces(content: bytes, offset: int, size: int) -> Iterator[artifacts.WriteBlobRequest]:
    for begin in range(offset, len(content), size):
        yield artifacts.WriteBlobRequest(
            digest=digest_of(content),
            size_bytes=len(content),
            offset=begin,
            data=content[begin : begin + size],
        )


# Below and above what a buffer of Python's holds.
@pytest.mark.parametrize("size", [4_000, 64_000, 4 << 20])
def test_an_upload_to_a_full_disk_goes_on_when_there_is_room(
    start: Any, large: bytes, size: int
) -> None:
    digest = digest_of(large)
    with start() as (process, client):
        with full(process, LIMIT):
            for _ in range(2):
                offset, _ = client.committed(digest)
                with pytest.raises(grpc.RpcError) as caught:
                    client.artifacts.WriteBlob(pieces(large, offset, size), timeout=PATIENCE)
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                refused = from_rpc_error(caught.value)
                assert "the artifact store is full" in refused.message
                # Whole pieces stay, and no half of one.
                offset, complete = client.committed(digest)
                assert (offset, complete) == (LIMIT // size * size, False)
            # What needs no room goes on.
            assert client.committed(digest_of(b"small")) == (0, False)
            client.upload(b"small")
        told = client.artifacts.WriteBlob(pieces(large, offset, size), timeout=PATIENCE)
        assert told.complete
        assert client.download(digest) == large
        assert leftovers(process) == []
        assert client.register("m", model_pb2.File(path="model.onnx", digest=digest)) == 1


def test_a_fetch_to_a_full_disk_leaves_nothing(start: Any, large: bytes, tmp_path: Path) -> None:
    source = tmp_path / "source.onnx"
    source.write_bytes(large)
    request = pb.RegisterVersionRequest(model="m", source_url=source.as_uri())
    with start("--url-schemes", "file") as (process, client):
        with full(process, LIMIT):
            refused = refusal(client.registry.RegisterVersion, request)
            assert refused.reason == "RESOURCE_EXHAUSTED"
            assert leftovers(process) == []
            assert client.committed(digest_of(large)) == (0, False)
        version = client.registry.RegisterVersion(request, timeout=PATIENCE).version
        assert version.files[0].digest == digest_of(large)
        assert client.download(digest_of(large)) == large
