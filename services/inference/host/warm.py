"""What a model must do before it is announced: run once, and prove its golden sample.

A golden sample is an `.npz` file with an array `in.NAME` for each input and `out.NAME` for
each output that must come out. Integers, truth values and texts must be equal; numbers of
floating point may differ by `atol + rtol * |expected|`, as `TOLERANCES` has it: a runtime
promises no equality of bits.
"""

import math
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modelyard.errors import InvalidArtifact, InvalidTensor
from services.inference.host.engine import Model
from services.inference.host.signature import Signature, Tensor
from services.inference.host.tensors import BF16, BYTES, DTYPES, Array

# Relative and absolute tolerance by the output's datatype.
TOLERANCES = {
    "FP64": (1e-3, 1e-5),
    "FP32": (1e-3, 1e-5),
    "FP16": (1e-2, 1e-3),
    "BF16": (5e-2, 1e-2),
}
_RUNS = 5


def synthesize(signature: Signature) -> dict[str, Array]:
    """An input of zeros (empty texts) for each required input; 1 where any size is accepted."""
    feeds: dict[str, Array] = {}
    for tensor in signature.inputs:
        if not tensor.optional:
            shape = tuple(1 if d < 0 else d for d in tensor.dims)
            fill = "" if tensor.datatype == BYTES else 0
            feeds[tensor.name] = np.full(shape, fill, DTYPES[tensor.datatype])
    return feeds


def warm(model: Model, feeds: dict[str, Array]) -> float:
    """Runs the model a few times; the shortest run in nanoseconds, infinite if none succeeds.

    An input made up of zeros may be one that the model refuses: that is no fault of the model.
    """
    best = math.inf
    for _ in range(_RUNS):
        began = time.monotonic_ns()
        try:
            model.run(feeds, None)
        except Exception:
            return best
        best = min(best, time.monotonic_ns() - began)
        if best > 1e9:
            break
    return best


def prove(model: Model, golden: Path) -> dict[str, Array]:
    """Runs the golden sample and compares; gives its inputs.

    Raises:
        InvalidArtifact: The sample cannot be read or run, or an output differs by more than
            the tolerance; the text says which one and by how much.
    """
    feeds, expected = load(golden, model.signature)
    try:
        model.signature.check(
            "golden", [(n, _datatype(model.signature, n), a.shape) for n, a in feeds.items()]
        )
        results = model.run(feeds, list(expected))
    except InvalidTensor as error:
        raise InvalidArtifact(f"golden sample: {error.message}") from error
    # onnxruntime's errors share no class; whichever it is, the sample was not proved.
    except Exception as error:
        raise InvalidArtifact(f"golden sample: the model fails: {error}") from error
    for tensor in model.signature.outputs:
        if tensor.name in expected:
            result = results[list(expected).index(tensor.name)]
            if difference := compare(tensor, expected[tensor.name], result):
                raise InvalidArtifact(f"golden sample: output {tensor.name!r} {difference}")
    return feeds


def load(golden: Path, signature: Signature) -> tuple[dict[str, Array], dict[str, Array]]:
    """The inputs and the expected outputs of a golden sample; raises InvalidArtifact."""
    try:
        with np.load(golden, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InvalidArtifact(f"golden sample: the file cannot be read: {error}") from error
    inputs = _part("in.", "input", arrays, signature.inputs)
    outputs = _part("out.", "output", arrays, signature.outputs)
    if not outputs:
        raise InvalidArtifact("golden sample: no array is named out.NAME")
    return inputs, outputs


def compare(tensor: Tensor, expected: Array, result: Array) -> str:
    """How a result differs from what was expected; empty when it does not."""
    if expected.shape != result.shape:
        return f"has shape {list(result.shape)}, expected {list(expected.shape)}"
    if tensor.datatype in TOLERANCES:
        rtol, atol = TOLERANCES[tensor.datatype]
        want, have = expected.astype(np.float64), result.astype(np.float64)
        wrong = ~np.isclose(have, want, rtol=rtol, atol=atol, equal_nan=True)
        allowed = f" (allowed: rtol {rtol:g}, atol {atol:g})"
        with np.errstate(invalid="ignore"):
            gaps = np.where(wrong, np.abs(have - want), 0.0)
        worst = int(np.argmax(np.nan_to_num(gaps, nan=np.inf))) if wrong.any() else 0
        by = f" by up to {gaps.flat[worst]:.6g}" if wrong.any() else ""
    else:
        wrong = np.asarray(expected != result)
        worst = int(np.argmax(wrong)) if wrong.size else 0
        allowed = by = ""
    if not wrong.any():
        return ""
    at = [int(i) for i in np.unravel_index(worst, expected.shape)]
    return (
        f"differs in {int(wrong.sum())} of {wrong.size} elements{by}, such as at {at}:"
        f" expected {expected.flat[worst]}, got {result.flat[worst]}{allowed}"
    )


def _part(
    prefix: str, role: str, arrays: dict[str, Array], tensors: Sequence[Tensor]
) -> dict[str, Array]:
    known = {t.name: t for t in tensors}
    part: dict[str, Array] = {}
    for key, array in arrays.items():
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        if name not in known:
            raise InvalidArtifact(f"golden sample: the model has no {role} {name!r}")
        part[name] = _as(known[name].datatype, array, f"{role} {name!r}")
    return part


def _as(datatype: str, array: Array, what: str) -> Array:
    """The array in the datatype; numpy files hold texts as U or S, and bfloat16 as 2-byte void."""
    if datatype == BYTES and array.dtype.kind in "US":
        texts = np.char.decode(array) if array.dtype.kind == "S" else array
        return texts.astype(object)
    if datatype == "BF16" and array.dtype == np.dtype("V2"):
        return array.view(BF16)
    if array.dtype != DTYPES[datatype]:
        raise InvalidArtifact(f"golden sample: {what} is {array.dtype}, the model's is {datatype}")
    return array


def _datatype(signature: Signature, name: str) -> str:
    return next(t.datatype for t in signature.inputs if t.name == name)
