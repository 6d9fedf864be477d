"""Artifacts come onto this machine whole, verified, and not for ever."""

import asyncio
import hashlib
import os
from pathlib import Path

import fsspec
import pytest

from modelyard.catalog import File
from modelyard.errors import InvalidArtifact, StoreUnavailable
from services.inference.artifacts import Artifact, ArtifactCache


def put(store: Path, content: bytes, name: str = "model.onnx") -> File:
    hexdigest = hashlib.sha256(content).hexdigest()
    blob = store / "sha256" / hexdigest[:2] / hexdigest
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    return File(name, f"sha256:{hexdigest}", len(content))


def single(store: Path, content: bytes) -> Artifact:
    file = put(store, content)
    return Artifact(file.digest, (file,))


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def cache(tmp_path, store):
    return ArtifactCache(str(store), tmp_path / "cache")


async def test_a_file_is_linked_not_copied(cache, store):
    artifact = single(store, b"model")
    local = await cache.fetch(artifact)
    assert local.artifact.name == "model.onnx"
    assert local.artifact.read_bytes() == b"model"
    assert local.artifact.stat().st_nlink == 2
    assert local.golden is None
    assert await cache.fetch(artifact) == local


async def test_the_same_file_by_another_name(cache, store):
    for name in ("a.onnx", "b.onnx", "deep/c.onnx"):
        file = put(store, b"one", name)
        local = await cache.fetch(Artifact(file.digest, (file,)))
        assert local.artifact.read_bytes() == b"one"


async def test_files_lie_as_the_manifest_names_them(cache, store):
    model, weights = put(store, b"m", "net.onnx"), put(store, b"w", "data/weights.bin")
    golden = put(store, b"g", "golden.npz")
    digest = "sha256:" + "a" * 64
    local = await cache.fetch(Artifact(digest, (model, weights), golden))
    assert local.artifact.is_dir()
    assert (local.artifact / "net.onnx").read_bytes() == b"m"
    assert (local.artifact / "data/weights.bin").read_bytes() == b"w"
    assert local.golden is not None and local.golden.read_bytes() == b"g"


@pytest.mark.parametrize("path", ["../out", "/etc/out", "a/../../out", ""])
async def test_a_file_stays_in_its_folder(cache, store, tmp_path, path):
    file = put(store, b"m", path)
    with pytest.raises(InvalidArtifact, match="outside"):
        await cache.fetch(Artifact(file.digest, (file,)))
    assert list((tmp_path / "cache/versions").iterdir()) == []
    assert list((tmp_path / "cache/parts").iterdir()) == []


async def test_an_absent_blob_leaves_nothing_and_can_come_later(cache, store, tmp_path):
    artifact = single(store, b"model")
    (blob,) = (path for path in store.rglob("*") if path.is_file())
    content = blob.read_bytes()
    blob.unlink()
    with pytest.raises(StoreUnavailable, match=r"does not give 'model\.onnx'"):
        await cache.fetch(artifact)
    assert list((tmp_path / "cache/parts").iterdir()) == []
    blob.write_bytes(content)
    assert (await cache.fetch(artifact)).artifact.read_bytes() == b"model"


async def test_a_download_is_verified(tmp_path):
    memory = fsspec.filesystem("memory")
    hexdigest = hashlib.sha256(b"model").hexdigest()
    path = f"/store-a/sha256/{hexdigest[:2]}/{hexdigest}"
    cache = ArtifactCache("memory://store-a", tmp_path)
    artifact = Artifact(f"sha256:{hexdigest}", (File("m.onnx", f"sha256:{hexdigest}", 5),))
    memory.pipe(path, b"mode!")
    with pytest.raises(InvalidArtifact, match=hashlib.sha256(b"mode!").hexdigest()):
        await cache.fetch(artifact)
    memory.pipe(path, b"model")
    assert (await cache.fetch(artifact)).artifact.read_bytes() == b"model"
    memory.rm("/store-a", recursive=True)
    # Here for good: the store is not asked again.
    assert (await cache.fetch(artifact)).artifact.read_bytes() == b"model"


async def test_two_hosts_fetch_once_together(cache, store):
    artifact = single(store, b"model")
    first, second = await asyncio.gather(cache.fetch(artifact), cache.fetch(artifact))
    assert first == second


async def test_the_least_recently_used_go(tmp_path):
    memory = fsspec.filesystem("memory")
    cache = ArtifactCache("memory://store-b", tmp_path, limit=25)
    artifacts = []
    for letter in b"abc":
        content = bytes([letter]) * 10
        hexdigest = hashlib.sha256(content).hexdigest()
        memory.pipe(f"/store-b/sha256/{hexdigest[:2]}/{hexdigest}", content)
        digest = f"sha256:{hexdigest}"
        artifacts.append(Artifact(digest, (File("m.onnx", digest, 10),)))
    a, b, c = artifacts
    paths = [(await cache.fetch(each)).artifact for each in (a, b)]
    for age, path in ((100, paths[1]), (200, paths[0])):
        os.utime(path.parent, (1e9 - age, 1e9 - age))
    # The oldest is in use.
    await cache.fetch(c, in_use=[a.digest])
    assert paths[0].exists()
    assert not paths[1].exists()


async def test_a_discarded_one_is_brought_anew(cache, store):
    artifact = single(store, b"model")
    path = (await cache.fetch(artifact)).artifact
    await cache.discard(artifact.digest)
    await cache.discard(artifact.digest)
    assert not path.exists()
    assert (await cache.fetch(artifact)).artifact == path


async def test_what_a_killed_fetch_left_is_removed(tmp_path, store):
    left = tmp_path / "cache/parts/0123"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"h")
    ArtifactCache(str(store), tmp_path / "cache")
    assert not left.exists()
