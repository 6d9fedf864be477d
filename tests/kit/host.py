"""Real hosts as child processes, and inference calls with numpy arrays."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.inference.v2 import open_inference_pb2_grpc as pb_grpc
from services.inference.host.tensors import BF16, DTYPES, encode
from services.inference.host.verify import digest

Array = NDArray[Any]

_ROOT = Path(__file__).resolve().parents[2]
_START = 60.0
_UNLIMITED = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Tests come and go faster than connections that are shared by address.
    ("grpc.use_local_subchannel_pool", 1),
)
_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass
class Host:
    """A host process.

    Attributes:
        process: The child.
        stages: What it printed, in order.
        errors: Where its standard error goes.
    """

    process: subprocess.Popen[str]
    errors: Path
    stages: list[dict[str, str]] = field(default_factory=list)
    _lines: "queue.SimpleQueue[str | None]" = field(default_factory=queue.SimpleQueue)

    @property
    def address(self) -> str:
        """Where it serves."""
        return self.stages[-1]["address"]

    def wait_stage(self, *stages: str, timeout: float = _START) -> dict[str, str]:
        """The first line of one of these stages; fails when the output ends before."""
        while True:
            line = self._lines.get(timeout=timeout)
            if line is None:
                raise AssertionError(
                    f"the host ended with {self.process.wait(timeout)}, after {self.stages}:"
                    f" {self.errors.read_text()[-2000:]}"
                )
            self.stages.append(json.loads(line))
            if self.stages[-1]["stage"] in stages:
                return self.stages[-1]

    def terminate(self, timeout: float = 30.0) -> int:
        """Sends SIGTERM and gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)


@contextmanager
def host_process(
    artifact: Path,
    folder: Path,
    *,
    model: str = "m",
    version: int = 1,
    listen: str = "127.0.0.1:0",
    expected_digest: str | None = None,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Host]:
    """A host's process, not waited for; killed at the end where it still runs.

    Args:
        artifact: The model's file or folder.
        folder: Where its standard error goes.
        model: The model's name.
        version: The version's number.
        listen: Where to serve.
        expected_digest: The artifact's own where none is given.
        arguments: More flags.
        environment: Added to this process's.
    """
    command = [sys.executable, "-m", "services.inference.host"]
    command += ["--model", model, "--version", str(version), "--artifact", str(artifact)]
    command += ["--digest", expected_digest or digest(artifact), "--listen", listen, *arguments]
    errors = folder / "host.stderr"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **(environment or {})},
        )
    host = Host(process, errors)
    reader = threading.Thread(target=host._read, daemon=True)
    reader.start()
    try:
        yield host
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
        reader.join(30)
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def start_host(artifact: Path, folder: Path, **options: Any) -> Iterator[Host]:
    """A host that serves; options as for `host_process`."""
    with host_process(artifact, folder, **options) as host:
        host.wait_stage("serving")
        yield host


@contextmanager
def connect(address: str) -> Iterator[pb_grpc.GRPCInferenceServiceStub]:
    """A stub without message limits."""
    with grpc.insecure_channel(address, options=_UNLIMITED) as channel:
        yield pb_grpc.GRPCInferenceServiceStub(channel)


def datatype_of(array: Array) -> str:
    """How the protocol names an array's type."""
    return "BYTES" if array.dtype.kind in "OSU" else _DATATYPES[array.dtype]


def request(
    name: str,
    arrays: Mapping[str, Array],
    *,
    version: str = "",
    outputs: Sequence[str] = (),
    **fields: Any,
) -> pb.ModelInferRequest:
    """A request with raw contents."""
    return pb.ModelInferRequest(
        model_name=name,
        model_version=version,
        inputs=[
            pb.ModelInferRequest.InferInputTensor(name=n, datatype=datatype_of(a), shape=a.shape)
            for n, a in arrays.items()
        ],
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=n) for n in outputs],
        raw_input_contents=[encode(a) for a in arrays.values()],
        **fields,
    )


def arrays_of(response: pb.ModelInferResponse) -> dict[str, Array]:
    """The outputs of a response; BYTES as objects of `bytes`."""
    assert len(response.outputs) == len(response.raw_output_contents)
    return {
        output.name: _array(output.datatype, tuple(output.shape), raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def infer(
    stub: pb_grpc.GRPCInferenceServiceStub,
    name: str,
    arrays: Mapping[str, Array],
    *,
    timeout: float = 60.0,
    metadata: Sequence[tuple[str, str]] = (),
    **options: Any,
) -> dict[str, Array]:
    """One call; options as for `request`."""
    answer = stub.ModelInfer(
        request(name, arrays, **options), timeout=timeout, metadata=tuple(metadata)
    )
    return arrays_of(answer)


def _array(datatype: str, shape: tuple[int, ...], raw: bytes) -> Array:
    # Written apart from the code under test, for the one format that is not numpy's own.
    if datatype != "BYTES":
        dtype = BF16 if datatype == "BF16" else DTYPES[datatype]
        return np.frombuffer(raw, dtype).reshape(shape)
    elements: list[bytes] = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        elements.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(shape)
