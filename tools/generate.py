"""Generates the Python stubs from protos/, typed, into the package that applications import.

`--check` compares with what is committed and writes nothing.

The public protocol's stubs get a descriptor pool of their own: tritonclient, kserve and
mlserver register the same full names in the default pool, and the second to do so fails.
"""

import filecmp
import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
# Where protoc puts the public protocol's stubs, and where an application finds them.
PUBLIC, HOME = "inference", "modelyard/inference/v2"


def compile_protos(out: Path) -> None:
    """Runs protoc over every contract; raises SystemExit when one does not compile."""
    bin_dir = Path(sys.executable).parent
    sources = sorted(str(p.relative_to(PROTOS)) for p in PROTOS.rglob("*.proto"))
    common = resources.files("grpc_tools") / "_proto"
    arguments = [
        "protoc",
        f"-I{PROTOS}",
        f"-I{common}",
        f"--plugin=protoc-gen-mypy={bin_dir / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={bin_dir / 'protoc-gen-mypy_grpc'}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet:{out}",
        *sources,
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")


def move_public_protocol(out: Path) -> None:
    """Moves the public protocol's stubs under our package and gives them their own pool."""
    home = out / HOME
    home.mkdir(parents=True, exist_ok=True)
    package = HOME.replace("/", ".")
    for stub in sorted((out / PUBLIC).iterdir()):
        text = stub.read_text()
        text = text.replace("_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()")
        text = re.sub(rf"^from {PUBLIC} import", f"from {package} import", text, flags=re.M)
        text = re.sub(rf"^import {PUBLIC}\.", f"import {package}.", text, flags=re.M)
        text = re.sub(rf"(?<![\w./]){PUBLIC}\.(\w+_pb2)\b", rf"{package}.\1", text)
        text = text.replace(f"'{PUBLIC}.open_inference_pb2'", f"'{package}.open_inference_pb2'")
        (home / stub.name).write_text(text)
        stub.unlink()
    (out / PUBLIC).rmdir()


def drop_empty_services(out: Path) -> None:
    """Drops the *_grpc files of contracts that hold no service."""
    for stub in out.rglob("*_pb2_grpc.py"):
        if "Stub(object)" not in stub.read_text():
            stub.unlink()
            stub.with_suffix(".pyi").unlink(missing_ok=True)


def differences(out: Path) -> list[str]:
    """Names the stubs that are stale, missing or left over, relative to the root."""
    fresh = {p.relative_to(out) for p in out.rglob("*_pb2*.py*")}
    held = {p.relative_to(ROOT) for p in (ROOT / "modelyard").rglob("*_pb2*.py*")}
    held = {p for p in held if "__pycache__" not in p.parts}
    changed = {p for p in fresh & held if not filecmp.cmp(out / p, ROOT / p, shallow=False)}
    return sorted(str(p) for p in changed | (fresh ^ held))


def main() -> None:
    """Generates, or with `--check` tells what is not fresh."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        compile_protos(out)
        move_public_protocol(out)
        drop_empty_services(out)
        stale = differences(out)
        if "--check" in sys.argv[1:]:
            if stale:
                raise SystemExit("stale stubs, run `make generate`: " + ", ".join(stale))
            return
        for path in stale:
            target = ROOT / path
            if (out / path).exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((out / path).read_bytes())
            else:
                target.unlink()
        print(f"{len(stale)} stubs written" if stale else "stubs are fresh")


if __name__ == "__main__":
    main()
