"""Importing Modelyard costs little and disturbs nobody."""

import subprocess
import sys

import pytest


def run(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True)


def test_importing_the_package_alone_imports_no_grpc() -> None:
    run("import sys, modelyard; assert not {'grpc', 'numpy', 'google.protobuf'} & {*sys.modules}")


@pytest.mark.parametrize("room", ["pydantic", "redis", "onnx", "onnxruntime", "typer", "yaml"])
def test_the_client_needs_its_base_dependencies_only(room: str) -> None:
    run(f"import sys; sys.modules[{room!r}] = None; from modelyard import AsyncClient, Client")


FIRST_AND_SECOND = (
    "from modelyard import AsyncClient, Client; Client('127.0.0.1:1')",
    "import tritonclient.grpc, tritonclient.grpc.aio;"
    "tritonclient.grpc.InferenceServerClient('127.0.0.1:1')",
)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["ours first", "tritonclient first"])
def test_beside_tritonclient(order: tuple[int, int]) -> None:
    run("; ".join(FIRST_AND_SECOND[index] for index in order))


def test_unknown_attributes() -> None:
    run("import modelyard\ntry: modelyard.nothing\nexcept AttributeError: pass\nelse: raise 1")
