"""onnxruntime behind the host's `Model` protocol."""

import ctypes
import logging
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from modelyard.errors import InvalidArgument, InvalidArtifact, InvalidTensor
from services.inference.host.signature import Dimension, Signature, Tensor
from services.inference.host.tensors import BF16, Array

_log = logging.getLogger(__name__)

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_ONNX_BFLOAT16 = 16
# Operators that can run for long on a small input: a NodeProto's op_type, as serialized.
_LOOPS = (b"\x22\x04Loop", b"\x22\x04Scan")
_SCAN_LIMIT = 256 << 20


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How onnxruntime runs a model.

    Attributes:
        threads: Of one run's operators; counted over the runs together.
        providers: Execution providers, the preferred first.
    """

    threads: int
    providers: tuple[str, ...] = ("CPUExecutionProvider",)


class Stop:
    """Ends one run from another thread; the run raises at its next operator."""

    __slots__ = ("options",)

    def __init__(self) -> None:
        self.options = ort.RunOptions()
        # A run that is stopped on purpose is no error to write about.
        self.options.log_severity_level = 4

    def stop(self) -> None:
        """Asks the run to end; without effect once it has."""
        self.options.terminate = True


class OnnxModel:
    """A model that onnxruntime holds.

    Args:
        artifact: The model's file, or the folder with it and its external data.
        settings: How to run it.

    Raises:
        InvalidArtifact: onnxruntime refuses the model, or the protocol cannot carry one
            of its inputs or outputs.
        InvalidArgument: A provider is not in this build of onnxruntime.
    """

    def __init__(self, artifact: Path, settings: SessionSettings) -> None:
        path = model_file(artifact)
        absent = [p for p in settings.providers if p not in ort.get_available_providers()]
        if absent:
            raise InvalidArgument(f"execution provider {absent[0]!r} is not available here")
        options = ort.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        # Threads that spin between operators take the processor from everyone else.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=list(settings.providers)
            )
        # onnxruntime's errors share no class of their own; whatever it says, it refused the file.
        except Exception as error:
            raise InvalidArtifact(f"onnxruntime cannot load the model: {_plain(error)}") from error
        self._session.disable_fallback()
        self.signature = _signature(self._session)
        self.may_run_long = may_run_long(path)
        self._types = {t.name: t.datatype for t in self.signature.inputs}
        self._output_names = [t.name for t in self.signature.outputs]
        both = (*self.signature.inputs, *self.signature.outputs)
        self._run: Callable[..., Sequence[Any]] = (
            self._run_bound if any(t.datatype == "BF16" for t in both) else self._session.run
        )

    @staticmethod
    def new_stop() -> Stop:
        """A fresh handle to end a run with."""
        return Stop()

    def run(
        self, feeds: dict[str, Array], outputs: Sequence[str] | None, stop: Stop | None = None
    ) -> Sequence[Array]:
        """The outputs named, in that order; all of them, in the model's order, for None.

        Raises:
            InvalidTensor: onnxruntime refuses a value of an input.
        """
        try:
            return self._run(
                outputs or self._output_names, feeds, None if stop is None else stop.options
            )
        except ort_errors.InvalidArgument as error:
            raise InvalidTensor(f"the model refuses its input: {_plain(error)}") from error

    def _run_bound(
        self, outputs: Sequence[str], feeds: dict[str, Array], options: Any
    ) -> Sequence[Array]:
        """Runs through a binding: numpy has no bfloat16 that onnxruntime would take or give."""
        binding = self._session.io_binding()
        held = []
        for name, array in feeds.items():
            if self._types[name] == "BF16":
                value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
                    np.ascontiguousarray(array), _ONNX_BFLOAT16
                )
                held.append(value)
                binding.bind_ortvalue_input(name, value)
            else:
                binding.bind_cpu_input(name, array)
        for name in outputs:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding, options)
        return [_from_ort(value) for value in binding.get_outputs()]


def _from_ort(value: Any) -> Array:
    if value.element_type() != _ONNX_BFLOAT16:
        array: Array = value.numpy()
        return array
    size = value.tensor_size_in_bytes()
    content = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(content, BF16).reshape(value.shape())


def model_file(artifact: Path) -> Path:
    """The file of the model itself; raises InvalidArtifact where none stands out."""
    if not artifact.exists():
        raise InvalidArtifact(f"the artifact {artifact.name!r} is not there")
    if artifact.is_file():
        return artifact
    files = sorted(artifact.glob("*.onnx"))
    named = artifact / "model.onnx"
    if named in files or len(files) == 1:
        return named if named in files else files[0]
    found = f"{len(files)} files" if files else "no file"
    raise InvalidArtifact(f"{found} *.onnx in the artifact's folder, and none is model.onnx")


def may_run_long(path: Path) -> bool:
    """Tells whether the time of a run may depend on values more than on sizes.

    Looks for loops in the serialized graph. A weight that happens to hold the same bytes
    makes it say yes, which is safe.
    """
    if path.stat().st_size > _SCAN_LIMIT:
        return True
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(loop) >= 0 for loop in _LOOPS)


def _signature(session: Any) -> Signature:
    return Signature(
        inputs=(
            *(_tensor("input", arg) for arg in session.get_inputs()),
            *(_tensor("input", arg, True) for arg in session.get_overridable_initializers()),
        ),
        outputs=tuple(_tensor("output", arg) for arg in session.get_outputs()),
    )


def _tensor(role: str, arg: Any, optional: bool = False) -> Tensor:
    datatype = _DATATYPES.get(arg.type)
    if datatype is None:
        hint = ""
        if "seq(map(" in arg.type:
            hint = "; skl2onnx gives a tensor instead with the option zipmap=False"
        raise InvalidArtifact(
            f"{role} {arg.name!r} is {arg.type}, which the protocol cannot carry{hint}"
        )
    shape: list[Dimension] = []
    for size in arg.shape:
        if isinstance(size, str):
            shape.append(size or None)
        else:
            shape.append(None if size is None or size < 0 else size)
    return Tensor(arg.name, datatype, tuple(shape), optional)


def _plain(error: Exception) -> str:
    """Onnxruntime's text without its prefix, on one line."""
    text = " ".join(str(error).split())
    _, found, rest = text.partition("[ONNXRuntimeError] : ")
    parts = rest.split(" : ", 2) if found else []
    return parts[2] if len(parts) == 3 else text
