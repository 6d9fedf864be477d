"""The models that are measured: a small MLP, an identity of any size, and a slow one."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from modelyard.inference.v2 import open_inference_pb2 as pb

WIDTH = 64
_OPSET = 17
# Old enough for every peer's onnxruntime.
_IR_VERSION = 9


def _save(path: Path, graph: onnx.GraphProto) -> Path:
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
    )
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def mlp(path: Path, seed: int = 0) -> Path:
    """Writes y[1, 16] = relu(x[1, 64] A) B, in FP32."""
    random = np.random.default_rng(seed)
    weights = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("A", (WIDTH, WIDTH)), ("B", (WIDTH, 16)))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "B"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16])
    return _save(path, helper.make_graph(nodes, "mlp", [x], [y], weights))


def identity(path: Path) -> Path:
    """Writes y[n] = x[n], in FP32."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    node = helper.make_node("Identity", ["x"], ["y"])
    return _save(path, helper.make_graph([node], "identity", [x], [y]))


def request(model: str, shape: tuple[int, ...], seed: int = 1) -> bytes:
    """A serialized call of a model with one FP32 input `x`."""
    x = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name="x", datatype="FP32", shape=shape)
    message.raw_input_contents.append(x.tobytes())
    return message.SerializeToString()


def slow(path: Path, rounds: int = 150_000) -> Path:
    """Writes y[1, 64] = x[1, 64], reached by so many additions of zero: some 100 ms of work.

    An x of zeros, with which hosts warm up, is done at once.
    """
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Add", ["h", "zero"], ["h_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, WIDTH]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h_out", TensorProto.FLOAT, [1, WIDTH]),
        ],
    )
    constants = [
        numpy_helper.from_array(np.array(rounds, np.int64), "rounds"),
        numpy_helper.from_array(np.array(True), "true"),
        numpy_helper.from_array(np.zeros((1, WIDTH), np.float32), "zero"),
    ]
    nodes = [
        helper.make_node("Abs", ["x"], ["sizes"]),
        helper.make_node("ReduceMax", ["sizes"], ["size"], keepdims=0),
        helper.make_node("Cast", ["size"], ["any"], to=TensorProto.BOOL),
        helper.make_node("Cast", ["any"], ["one"], to=TensorProto.INT64),
        helper.make_node("Mul", ["rounds", "one"], ["times"]),
        helper.make_node("Loop", ["times", "true", "x"], ["y"], body=body),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, WIDTH])
    return _save(path, helper.make_graph(nodes, "slow", [x], [y], constants))
