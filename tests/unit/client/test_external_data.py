"""The files that an ONNX file keeps tensors in, found without the onnx package."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from modelyard.client.external_data import external_files
from modelyard.errors import InvalidArtifact


def tensor_in(location: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def save(folder: Path, initializers: list[TensorProto], constant: TensorProto | None) -> Path:
    """A model with tensors in its initializers and within the branches of an If."""
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["y"], value=constant)]
        if constant
        else [helper.make_node("Identity", ["x"], ["y"])],
        "branch",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        "g",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        initializers,
    )
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def test_finds_them_wherever_tensors_are(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.bin", "sub/b.bin"):
        (tmp_path / name).write_bytes(bytes(16))
    path = save(tmp_path, [tensor_in("a.bin"), tensor_in("a.bin")], tensor_in("sub/b.bin"))

    assert external_files(path) == {
        "a.bin": tmp_path / "a.bin",
        "sub/b.bin": tmp_path / "sub/b.bin",
    }


def test_a_model_of_one_file(tmp_path: Path) -> None:
    inner = numpy_helper.from_array(np.ones(4, np.float32), "w")

    assert external_files(save(tmp_path, [inner], inner)) == {}


@pytest.mark.parametrize("location", ["../a.bin", "/etc/passwd", "sub/../../a.bin", "..\\a.bin"])
def test_locations_outside_the_folder(tmp_path: Path, location: str) -> None:
    with pytest.raises(InvalidArtifact, match="outside its own folder"):
        external_files(save(tmp_path, [tensor_in(location)], None))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidArtifact, match=r"'a\.bin', and no such file is beside it"):
        external_files(save(tmp_path, [tensor_in("a.bin")], None))


def test_as_the_onnx_package_writes_it(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones(1024, np.float32), "w")
    path = save(tmp_path, [weights], None)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.data")

    assert list(external_files(path)) == ["weights.data"]


@given(st.binary(max_size=200))
def test_other_files_have_none(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(data)
    # Unless the bytes happen to be a model with external data.
    with suppress(InvalidArtifact):
        assert external_files(path) == {}
