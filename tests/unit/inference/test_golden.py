"""Golden samples: proved, and refused with the output and the difference named."""

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from modelyard.errors import InvalidArtifact
from services.inference.host.session import OnnxModel, SessionSettings
from services.inference.host.tensors import BF16, Array
from services.inference.host.verify import digest, verify
from services.inference.host.warm import prove, synthesize, warm
from tests.kit import graphs

_X = np.arange(8, dtype=np.float32).reshape(2, 4)


def _model(folder: Path, proto: ModelProto) -> OnnxModel:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return OnnxModel(path, SessionSettings(threads=1))


def _golden(folder: Path, arrays: dict[str, Array]) -> Path:
    path = folder / "golden.npz"
    np.savez(path, allow_pickle=False, **arrays)
    return path


def test_a_sample_that_holds(tmp_path: Path) -> None:
    golden = _golden(tmp_path, {"in.x": _X, "out.y": 2 * _X + 1e-6})
    feeds = prove(_model(tmp_path, graphs.scale()), golden)
    assert feeds["x"].tolist() == _X.tolist()


@pytest.mark.parametrize("array", [np.array(["a", "ü"]), np.array([b"a", b"b"])])
def test_texts(tmp_path: Path, array: Array) -> None:
    prove(
        _model(tmp_path, graphs.identity("BYTES")),
        _golden(tmp_path, {"in.x": array, "out.y": array}),
    )


def test_bf16(tmp_path: Path) -> None:
    array = np.array([1, 2.5, np.nan], BF16)
    prove(
        _model(tmp_path, graphs.identity("BF16")),
        _golden(tmp_path, {"in.x": array, "out.y": array}),
    )


_WRONG = 2 * _X
_WRONG[1, 2] += 0.5


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        (
            {"in.x": _X, "out.y": _WRONG},
            (
                r"output 'y' differs in 1 of 8 elements by up to 0.5, such as at \[1, 2\]:"
                r" expected 12.5, got 12.0 \(allowed: rtol 0.001, atol 1e-05\)"
            ),
        ),
        ({"in.x": _X, "out.y": np.full_like(_X, np.nan)}, "output 'y' differs in 8 of 8"),
        ({"in.x": _X, "out.y": _X[:1]}, r"output 'y' has shape \[2, 4\], expected \[1, 4\]"),
        (
            {"in.x": _X, "out.y": _X.astype(np.float64)},
            "output 'y' is float64, the model's is FP32",
        ),
        ({"in.x": _X, "out.q": _X}, "the model has no output 'q'"),
        ({"in.q": _X, "out.y": _X}, "the model has no input 'q'"),
        ({"in.x": _X}, "no array is named out.NAME"),
        ({"out.y": _X}, "expected 1 inputs but got 0 inputs"),
        ({"in.x": _X[:, :3], "out.y": _X}, "unexpected shape for input 'x'"),
    ],
)
def test_samples_that_do_not(tmp_path: Path, arrays: dict[str, Array], text: str) -> None:
    with pytest.raises(InvalidArtifact, match=f"^golden sample: .*{text}"):
        prove(_model(tmp_path, graphs.scale()), _golden(tmp_path, arrays))


def test_a_file_that_is_no_sample(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    path.write_bytes(b"PK not really")
    with pytest.raises(InvalidArtifact, match="golden sample: the file cannot be read"):
        prove(_model(tmp_path, graphs.scale()), path)


def test_warm_up_with_made_up_inputs(tmp_path: Path) -> None:
    model = _model(tmp_path, graphs.bias())
    feeds = synthesize(model.signature)
    assert {n: a.shape for n, a in feeds.items()} == {"x": (1, 3)}
    assert 0 < warm(model, feeds) < 1e9
    assert warm(model, {"x": _X[:, :2]}) == float("inf")


def test_digest_of_a_file_and_of_folders(tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    (one / "model.onnx").write_bytes(b"abc")
    of_file = digest(one / "model.onnx")
    assert of_file == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(one) == of_file
    verify(one, of_file)
    verify(one, of_file.removeprefix("sha256:"))
    (one / "data").mkdir()
    (one / "data" / "w.bin").write_bytes(b"")
    # printf '<sha256 of w.bin>  data/w.bin\n<sha256 of model.onnx>  model.onnx\n' | sha256sum
    assert digest(one) == (
        "sha256:e2675d7e043c1ab01fab9008cd1e16dfa48f94fa2380f75ce25dca535cdfafec"
    )
    with pytest.raises(InvalidArtifact, match="not the one that was registered"):
        verify(one, of_file)
    with pytest.raises(InvalidArtifact, match="is not there"):
        digest(tmp_path / "none")
