"""The smallest model that tells its versions apart."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def scale(folder: Path, factor: float, *, external: bool = False) -> Path:
    """A model that multiplies X, of shape [N, 2], by a factor."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["X", "factor"], ["Y"])],
        "scale",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.full((1, 2), factor, np.float32), "factor")],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    path = folder / f"scale-{factor:g}.onnx"
    onnx.save(
        model,
        path,
        save_as_external_data=external,
        location=f"scale-{factor:g}.data",
        size_threshold=0,
    )
    return path
