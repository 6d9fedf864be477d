"""Real host processes with the models that ship inside the `onnx` package, and odd artifacts."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from tests.kit import graphs
from tests.kit.host import Array, connect, infer, start_host

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
LIGHT_MODELS = sorted(p.stem for p in LIGHT.glob("*.onnx"))


def light_case(name: str) -> tuple[Path, dict[str, Array], dict[str, Array]]:
    """The file, the inputs and the expected outputs of a light model.

    The package ships the outputs alone; its own runner feeds each model a ramp from 0 to 1.
    Source: `generate_dummy_data` in onnx/backend/test/runner.
    """
    path = LIGHT / f"{name}.onnx"
    graph = onnx.load(path).graph
    known = {i.name for i in graph.initializer}
    feeds: dict[str, Array] = {}
    for value in graph.input:
        if value.name not in known:
            shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            feeds[value.name] = (np.arange(count).reshape(shape) / count).astype(np.float32)
    outputs = {
        value.name: numpy_helper.to_array(onnx.load_tensor(LIGHT / f"{name}_output_{i}.pb"))
        for i, value in enumerate(graph.output)
    }
    return path, feeds, outputs


def test_the_package_has_them() -> None:
    assert len(LIGHT_MODELS) >= 6


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", LIGHT_MODELS)
def test_light_model(name: str, tmp_path: Path) -> None:
    path, feeds, expected = light_case(name)
    with start_host(path, tmp_path, model=name) as host, connect(host.address) as stub:
        got = infer(stub, name, feeds, version="1")
    assert set(got) == set(expected)
    for output, want in expected.items():
        np.testing.assert_allclose(got[output], want, rtol=1e-3, atol=1e-5)


def test_external_data(tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    model = graphs.dense()
    x = np.ones((2, 64), np.float32)
    (weight,) = model.graph.initializer
    want = np.maximum(x @ numpy_helper.to_array(weight), 0)
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, artifact / "model.onnx")
    assert (artifact / "weights.bin").stat().st_size >= 64 * 64 * 4
    with start_host(artifact, tmp_path) as host, connect(host.address) as stub:
        np.testing.assert_allclose(infer(stub, "m", {"x": x})["y"], want, rtol=1e-4, atol=1e-4)


def test_optional_input_and_chosen_outputs(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(graphs.bias().SerializeToString())
    x = np.zeros((1, 3), np.float32)
    with start_host(path, tmp_path) as host, connect(host.address) as stub:
        assert infer(stub, "m", {"x": x})["y"].tolist() == [[1, 2, 3]]
        five = np.full(3, 5, np.float32)
        assert infer(stub, "m", {"x": x, "b": five})["y"].tolist() == [[5, 5, 5]]


def test_subgraphs_and_chosen_outputs(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(graphs.branch().SerializeToString())
    x = np.array([1, 2], np.float32)
    with start_host(path, tmp_path) as host, connect(host.address) as stub:
        for flag, want in ((True, [1, 2]), (False, [-1, -2])):
            assert infer(stub, "m", {"flag": np.array(flag), "x": x})["y"].tolist() == want
    path.write_bytes(graphs.pair().SerializeToString())
    with start_host(path, tmp_path) as host, connect(host.address) as stub:
        got = infer(stub, "m", {"a": x, "b": x}, outputs=["gap"])
        assert {name: array.tolist() for name, array in got.items()} == {"gap": [0, 0]}
        got = infer(stub, "m", {"b": x, "a": x}, outputs=["gap", "total"])
        assert list(got) == ["gap", "total"]


@pytest.mark.timeout(180)
def test_100_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(graphs.identity().SerializeToString())
    x = np.arange(25 << 20, dtype=np.float32)
    with start_host(path, tmp_path) as host, connect(host.address) as stub:
        assert np.array_equal(infer(stub, "m", {"x": x})["y"], x)


def test_over_a_unix_socket(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(graphs.scale().SerializeToString())
    socket = tmp_path_factory.getbasetemp() / "h.sock"
    with (
        start_host(path, tmp_path, listen=f"unix:{socket}") as host,
        connect(host.address) as stub,
    ):
        assert host.address == f"unix:{socket}"
        x = np.ones((1, 4), np.float32)
        assert infer(stub, "m", {"x": x})["y"].tolist() == [[2, 2, 2, 2]]
