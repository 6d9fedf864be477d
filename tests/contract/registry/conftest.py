"""One registry for all tests of a module, each of which has a model of its own."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelyard.registry.v1 import (
    model_pb2,
)
from tests.kit.registry import RedisProcess, start_redis, start_registry
from tests.kit.registry_client import Client, connect
from tests.kit.scale import scale


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def redis(folder: Path) -> Iterator[RedisProcess]:
    with start_redis(folder / "redis") as redis:
        yield redis


@pytest.fixture(scope="module")
def client(redis: RedisProcess, folder: Path) -> Iterator[Client]:
    """One registry for all tests, each of which has a model of its own."""
    with (
        start_registry(redis, folder / "registry", "--url-schemes", "file,https") as process,
        connect(process.address) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def file(client: Client, folder: Path) -> model_pb2.File:
    return client.upload(scale(folder, 2.0).read_bytes())


_models = itertools.count(1)


@pytest.fixture
def model() -> str:
    return f"model-{next(_models)}"
