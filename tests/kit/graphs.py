"""Small ONNX models for tests, made on the spot."""

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None] | None

ONNX_TYPES: dict[str, int] = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def model(
    nodes: Sequence[NodeProto],
    inputs: dict[str, tuple[str, Shape]],
    outputs: dict[str, tuple[str, Shape]],
    initializers: Sequence[TensorProto] = (),
) -> ModelProto:
    """A model of these nodes; inputs and outputs by name, as datatype and shape."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(n, ONNX_TYPES[t], s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, ONNX_TYPES[t], s) for n, (t, s) in outputs.items()],
        list(initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def identity(datatype: str = "FP32", shape: Shape = ("n",)) -> ModelProto:
    """y = x."""
    return model(
        [helper.make_node("Identity", ["x"], ["y"])],
        {"x": (datatype, shape)},
        {"y": (datatype, shape)},
    )


def mean() -> ModelProto:
    """y[1] = the mean of x[n]: large in, small out."""
    return model(
        [helper.make_node("ReduceMean", ["x"], ["y"], keepdims=1)],
        {"x": ("FP32", ["n"])},
        {"y": ("FP32", [1])},
    )


def scale(factor: float = 2.0, width: int = 4) -> ModelProto:
    """y = factor * x, for x of shape [n, width]."""
    weight = numpy_helper.from_array(np.array(factor, np.float32), "factor")
    return model(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        {"x": ("FP32", ["n", width])},
        {"y": ("FP32", ["n", width])},
        [weight],
    )


def dense(width: int = 64) -> ModelProto:
    """y = relu(x w), for x of shape [n, width]; w is random of a fixed seed."""
    weight = np.random.default_rng(0).standard_normal((width, width)).astype(np.float32)
    return model(
        [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])],
        {"x": ("FP32", ["n", width])},
        {"y": ("FP32", ["n", width])},
        [numpy_helper.from_array(weight, "w")],
    )


def bias() -> ModelProto:
    """y = x + b; b is an input that may be left out, and then is [1, 2, 3]."""
    default = numpy_helper.from_array(np.array([1, 2, 3], np.float32), "b")
    return model(
        [helper.make_node("Add", ["x", "b"], ["y"])],
        {"x": ("FP32", ["n", 3]), "b": ("FP32", [3])},
        {"y": ("FP32", ["n", 3])},
        [default],
    )


def pair() -> ModelProto:
    """total = a + b and gap = a - b, all of shape [n]."""
    return model(
        [
            helper.make_node("Add", ["a", "b"], ["total"]),
            helper.make_node("Sub", ["a", "b"], ["gap"]),
        ],
        {"a": ("FP32", ["n"]), "b": ("FP32", ["n"])},
        {"total": ("FP32", ["n"]), "gap": ("FP32", ["n"])},
    )


def branch() -> ModelProto:
    """y = x where `flag` is true, else -x."""
    info = helper.make_tensor_value_info("r", TensorProto.FLOAT, ["n"])
    yes = helper.make_graph([helper.make_node("Identity", ["x"], ["r"])], "yes", [], [info])
    no = helper.make_graph([helper.make_node("Neg", ["x"], ["r"])], "no", [], [info])
    return model(
        [helper.make_node("If", ["flag"], ["y"], then_branch=yes, else_branch=no)],
        {"flag": ("BOOL", []), "x": ("FP32", ["n"])},
        {"y": ("FP32", ["n"])},
    )


def loop() -> ModelProto:
    """Adds x to itself `rounds` times over: some 0.7 us a round."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["sum", "sum"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n"]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["n"]),
        ],
    )
    return model(
        [helper.make_node("Loop", ["rounds", "", "x"], ["y"], body=body)],
        {"rounds": ("INT64", []), "x": ("FP32", ["n"])},
        {"y": ("FP32", ["n"])},
    )
