"""Tries a model in a process of its own: `python -m services.registry.probe MODEL_FILE`.

What it finds is one JSON object on standard output: `{"error": ...}`, or the signature and what
the file says of itself. A file that kills or hangs onnxruntime kills or hangs only this.
"""

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError

# Of this process, in bytes: a file that asks for more is not loaded.
MEMORY = 16 << 30

_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}


class Refused(Exception):
    """The file is no model that can be served; the text says why."""


def _tensors(proto: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor of a message, however deep: initializers, attributes, subgraphs."""
    if isinstance(proto, onnx.TensorProto):
        yield proto
        return
    for field, value in proto.ListFields():
        if field.message_type is None:
            continue
        for item in value if field.is_repeated else (value,):
            yield from _tensors(item)


def check_external_data(model: onnx.ModelProto, folder: Path) -> None:
    """Sees that external data lies in the artifact's own folder, in plain files; raises Refused."""
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        path = Path(location)
        if not location or path.is_absolute() or ".." in path.parts:
            raise Refused(
                f"external data at {location!r} leads out of the artifact's folder"
                f" (tensor {tensor.name!r})"
            )
        target = folder / path
        if target.is_symlink() or not target.is_file():
            raise Refused(
                f"external data at {location!r} is not among the files (tensor {tensor.name!r})"
            )


def _tensor(role: str, argument: Any, optional: bool) -> dict[str, Any]:
    kind = argument.type
    datatype = _DATATYPES.get(kind.removeprefix("tensor(").removesuffix(")"))
    if not kind.startswith("tensor(") or datatype is None:
        hint = "; export with zipmap=False" if "map(" in kind else ""
        raise Refused(
            f"{role} {argument.name!r} is of the type {kind}, which the protocol cannot carry{hint}"
        )
    shape = [
        size if isinstance(size, int) and size >= 0 else size if isinstance(size, str) else ""
        for size in argument.shape
    ]
    return {
        "name": argument.name,
        "datatype": datatype,
        "shape": shape,
        "optional": optional,
    }


def examine(path: Path) -> dict[str, Any]:
    """Checks, loads and describes a model; raises Refused."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError:
        raise Refused(f"{path.name} is not an ONNX file") from None
    if not model.graph.node and not model.graph.output:
        raise Refused(f"{path.name} is not an ONNX file")
    check_external_data(model, path.parent)
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise Refused(f"onnx.checker: {_line(error)}") from None
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class in common.
        raise Refused(f"onnxruntime: {_line(error)}") from None
    return {
        "inputs": [
            *(_tensor("input", a, False) for a in session.get_inputs()),
            *(_tensor("input", a, True) for a in session.get_overridable_initializers()),
        ],
        "outputs": [_tensor("output", a, False) for a in session.get_outputs()],
        "producer": " ".join(filter(None, (model.producer_name, model.producer_version))),
        "ir_version": model.ir_version,
        "opsets": {o.domain or "ai.onnx": o.version for o in model.opset_import},
        "tested_with": f"onnxruntime {ort.__version__}",
    }


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 500 else f"{text[:499]}…"


def main() -> None:
    """Prints what it finds."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hard))
    try:
        found = examine(Path(sys.argv[1]))
    except Refused as refused:
        found = {"error": str(refused)}
    except MemoryError:
        found = {"error": f"the model needs more than {MEMORY >> 30} GiB to load"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
