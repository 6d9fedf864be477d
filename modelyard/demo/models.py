"""The models of the tour: trained here, or shipped inside the onnx package."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

_IMAGE = "squeezenet"
_OPSET = 18


@dataclass(frozen=True, slots=True)
class Digits:
    """Two versions of one classifier, and images that neither has seen.

    Attributes:
        versions: Files by what they are, the simpler first.
        accuracy: Of each version on the unseen images, from 0 to 1.
        images: float32 of shape [N, 64], 8x8 grey values from 0 to 16.
        digits: int64 of shape [N], what the images show.
        golden: Samples that a host of the second version proves before it serves.
    """

    versions: dict[str, Path]
    accuracy: dict[str, float]
    images: NDArray[np.float32]
    digits: NDArray[np.int64]
    golden: Path


@dataclass(frozen=True, slots=True)
class Image:
    """An image model and what it must answer.

    Attributes:
        name: The model's name.
        file: The .onnx file.
        inputs: Its inputs by name.
        output: Its output's name.
        expected: The output that ships with it.
    """

    name: str
    file: Path
    inputs: dict[str, NDArray[Any]]
    output: str
    expected: NDArray[Any]


def train(folder: Path) -> Digits:
    """Trains both versions on scikit-learn's digits, in seconds, and exports them to a folder."""
    images, digits = load_digits(return_X_y=True)
    seen, unseen, known, truth = train_test_split(
        images.astype(np.float32), digits.astype(np.int64), test_size=0.3, random_state=7
    )
    models = {
        "a logistic regression": make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=60, C=0.02, tol=1e-2)
        ),
        "a neural network": make_pipeline(
            StandardScaler(), MLPClassifier((64,), max_iter=60, tol=1e-2, random_state=7)
        ),
    }
    versions, accuracy = {}, {}
    for number, (name, model) in enumerate(models.items(), start=1):
        model.fit(seen, known)
        accuracy[name] = float(model.score(unseen, truth))
        # A list of maps is no tensor, and only tensors travel.
        exported = to_onnx(model, seen[:1], options={"zipmap": False}, target_opset=_OPSET)
        versions[name] = folder / f"digits-{number}.onnx"
        versions[name].write_bytes(exported.SerializeToString())
    golden = folder / "golden.npz"
    last = list(models.values())[-1]
    arrays = {"in.X": unseen[:8], "out.label": last.predict(unseen[:8])}
    np.savez(golden, allow_pickle=False, **arrays)
    return Digits(versions, accuracy, unseen, truth, golden)


def image() -> Image:
    """The image model of the onnx package, with the output that ships beside it."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    file = folder / f"light_{_IMAGE}.onnx"
    graph = onnx.load(file).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs: dict[str, NDArray[Any]] = {}
    for value in graph.input:
        if value.name not in weights:
            shape = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
            inputs[value.name] = _ramp(shape)
    expected = onnx.TensorProto.FromString((folder / f"light_{_IMAGE}_output_0.pb").read_bytes())
    return Image(_IMAGE, file, inputs, graph.output[0].name, numpy_helper.to_array(expected))


def _ramp(shape: list[int]) -> NDArray[np.float32]:
    """The input that the shipped output belongs to: 0 to 1, evenly, in the array's order."""
    size = int(np.prod(shape))
    return (np.arange(size) / size).astype(np.float32).reshape(shape)
