"""Classifiers of three classes on four features, as good, as slow and as broken as a test wants.

The true class is that of the largest of `x W`. A classifier knows `W` as well as its noise lets it.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FEATURES, CLASSES = 4, 3
W = np.random.default_rng(11).normal(size=(FEATURES, CLASSES)).astype(np.float32)


def draw(rng, rows=1):
    """Rows of features; one in ten has a first feature above 1.3."""
    return rng.normal(size=(rows, FEATURES)).astype(np.float32)


def truth(x):
    """The true classes."""
    return np.argmax(x @ W, axis=1)


def classifier(folder: Path, name: str, noise: float = 0.0, *, seed=0, rounds=0, swap_above=None):
    """Writes a classifier: x FP32 [N, 4] to label INT64 [N] and scores FP32 [N, 3].

    Args:
        folder: Where to.
        name: Of the file.
        noise: How far its weights are off.
        seed: Of the noise.
        rounds: Of a loop that does nothing, some 0.7 us each.
        swap_above: The first two classes are swapped where the first feature is above this.
    """
    weights = W + noise * np.random.default_rng(seed).normal(size=W.shape).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["plain"])]
    inits = [numpy_helper.from_array(weights.astype(np.float32), "w")]
    last = "plain"
    if swap_above is not None:
        inits += [
            numpy_helper.from_array(np.int64([1, 0, 2]), "order"),
            numpy_helper.from_array(np.int64([0]), "first"),
            numpy_helper.from_array(np.float32(swap_above), "bound"),
        ]
        nodes += [
            helper.make_node("Gather", ["plain", "order"], ["swapped"], axis=1),
            helper.make_node("Gather", ["x", "first"], ["x0"], axis=1),
            helper.make_node("Greater", ["x0", "bound"], ["above"]),
            helper.make_node("Where", ["above", "swapped", "plain"], ["broken"]),
        ]
        last = "broken"
    if rounds:
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["going"], ["still"]),
                helper.make_node("Identity", ["held"], ["kept"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("going", TensorProto.BOOL, []),
                helper.make_tensor_value_info("held", TensorProto.FLOAT, ["N", CLASSES]),
            ],
            [
                helper.make_tensor_value_info("still", TensorProto.BOOL, []),
                helper.make_tensor_value_info("kept", TensorProto.FLOAT, ["N", CLASSES]),
            ],
        )
        inits += [
            numpy_helper.from_array(np.int64(rounds), "rounds"),
            numpy_helper.from_array(np.bool_(True), "yes"),
        ]
        nodes.append(helper.make_node("Loop", ["rounds", "yes", last], ["slowly"], body=body))
        last = "slowly"
    nodes += [
        helper.make_node("Identity", [last], ["scores"]),
        helper.make_node("ArgMax", [last], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", FEATURES])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES]),
        ],
        inits,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return path
