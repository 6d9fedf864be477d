"""What a host refuses, with code, reason and text; and how it ends.

Past 300 lines: one pair of hosts serves the refusals, and their ends are told by the same helpers.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from modelyard.errors import (
    DeadlineExceeded,
    HostGone,
    InvalidTensor,
    MessageTooLarge,
    ModelNotFound,
    ModelyardError,
    Unimplemented,
    VersionNotFound,
    VersionNotServing,
)
from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.inference.v2 import open_inference_pb2_grpc as pb_grpc
from modelyard.status import from_rpc_error
from tests.kit import graphs
from tests.kit.host import Host, connect, host_process, infer, request, start_host

_A = np.ones(3, np.float32)
_PAIR = {"a": _A, "b": _A}

Stub = pb_grpc.GRPCInferenceServiceStub


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stub]:
    """A host of `pair`, with a message limit of 1 MiB, as models/m/versions/7."""
    folder = tmp_path_factory.mktemp("pair")
    path = _write(folder, graphs.pair().SerializeToString())
    limit = ("--max-message-bytes", str(1 << 20))
    with (
        start_host(path, folder, version=7, arguments=limit) as host,
        connect(host.address) as stub,
    ):
        yield stub


def _write(folder: Path, content: bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(content)
    return path


def _until(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.02)


def _error(call: Callable[[], object]) -> ModelyardError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return from_rpc_error(caught.value)


def _spoil(change: Callable[[pb.ModelInferRequest], object]) -> pb.ModelInferRequest:
    spoiled = request("m", _PAIR)
    change(spoiled)
    return spoiled


def _typed_too(r: pb.ModelInferRequest) -> None:
    r.inputs[0].contents.fp32_contents.extend([1, 1, 1])


_BAD: list[tuple[pb.ModelInferRequest, type[ModelyardError], str]] = [
    (request("q", _PAIR), ModelNotFound, "Request for unknown model: 'q' is not found"),
    (
        request("m", _PAIR, version="9"),
        VersionNotFound,
        "Request for unknown model: 'm' version 9 is not found",
    ),
    (
        request("m", {**_PAIR, "c": _A}),
        InvalidTensor,
        "unexpected inference input 'c' for model 'm'",
    ),
    (request("m", {"a": _A}), InvalidTensor, "expected 2 inputs but got 1 inputs for model 'm'"),
    (
        request("m", {"a": _A, "b": np.ones(2, np.float32)}),
        InvalidTensor,
        "unexpected shape for input 'b' for model 'm'. Expected [3], got [2].",
    ),
    (
        request("m", {"a": _A, "b": _A.astype(np.float64)}),
        InvalidTensor,
        "unexpected datatype 'FP64' for input 'b' for model 'm', expected 'FP32'",
    ),
    (
        request("m", _PAIR, outputs=["q"]),
        InvalidTensor,
        "unexpected inference output 'q' for model 'm'",
    ),
    (
        _spoil(lambda r: r.raw_input_contents.__setitem__(1, b"\x00" * 11)),
        InvalidTensor,
        "input byte size mismatch for input 'b' for model 'm'. Expected 12, got 11",
    ),
    (
        _spoil(lambda r: r.raw_input_contents.pop()),
        InvalidTensor,
        "expected 2 raw input contents but got 1 for model 'm'",
    ),
    (
        _spoil(_typed_too),
        InvalidTensor,
        "contents field must not be specified when using raw_input_contents",
    ),
    (
        _spoil(lambda r: r.ClearField("raw_input_contents")),
        InvalidTensor,
        "unexpected number of elements for input 'a' for model 'm'. Expected 3, got 0",
    ),
]


@pytest.mark.parametrize(("bad", "kind", "text"), _BAD, ids=[text for _, _, text in _BAD])
def test_bad_requests(
    pair: Stub, bad: pb.ModelInferRequest, kind: type[ModelyardError], text: str
) -> None:
    error = _error(lambda: pair.ModelInfer(bad, timeout=20))
    assert type(error) is kind
    assert text in error.message


def test_typed_contents(pair: Stub) -> None:
    call = request("m", _PAIR, id="seven")
    call.ClearField("raw_input_contents")
    for tensor in call.inputs:
        tensor.contents.fp32_contents.extend([1, 2, 3])
    answer = pair.ModelInfer(call, timeout=20)
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "7", "seven")
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2, 4, 6]


def test_the_gateways_target_decides(pair: Stub) -> None:
    mine = (("modelyard-target", "models/m/versions/7"),)
    assert infer(pair, "alias", _PAIR, version="live", metadata=mine)["gap"].tolist() == [0, 0, 0]
    other = (("modelyard-target", "models/m/versions/8"),)
    error = _error(lambda: infer(pair, "m", _PAIR, metadata=other))
    assert type(error) is VersionNotServing


def test_oversize_message(pair: Stub) -> None:
    big = np.ones(1 << 19, np.float32)
    error = _error(lambda: infer(pair, "m", {"a": big, "b": big}))
    assert type(error) is MessageTooLarge


def test_parameters(pair: Stub) -> None:
    call = request("m", _PAIR)
    call.parameters["priority"].uint64_param = 1
    call.parameters["sequence_id"].int64_param = 5
    call.parameters["timeout"].int64_param = 10_000_000
    pair.ModelInfer(call, timeout=20)
    call.parameters["timeout"].int64_param = 1
    assert type(_error(lambda: pair.ModelInfer(call, timeout=20))) is DeadlineExceeded
    call.parameters["timeout"].string_param = "soon"
    assert "timeout" in _error(lambda: pair.ModelInfer(call, timeout=20)).message


def test_every_other_method(pair: Stub) -> None:
    assert pair.ServerLive(pb.ServerLiveRequest()).live
    assert pair.ServerReady(pb.ServerReadyRequest()).ready
    assert pair.ModelReady(pb.ModelReadyRequest(name="m", version="7")).ready
    assert not pair.ModelReady(pb.ModelReadyRequest(name="m", version="8")).ready
    server = pair.ServerMetadata(pb.ServerMetadataRequest())
    assert server.name == "modelyard"
    assert "statistics" in server.extensions
    metadata = pair.ModelMetadata(pb.ModelMetadataRequest(name="m"))
    assert list(metadata.versions) == ["7"]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("a", "FP32", [-1]),
        ("b", "FP32", [-1]),
    ]
    config = pair.ModelConfig(pb.ModelConfigRequest(name="m")).config
    assert {t.name for t in config.input} == {"a", "b"}
    assert config.max_batch_size > 0
    assert [list(t.dims) for t in config.output] == [[], []]

    def counts() -> tuple[int, int, int]:
        (s,) = pair.ModelStatistics(pb.ModelStatisticsRequest(name="m", version="7")).model_stats
        stages = s.inference_stats
        assert s.version == "7"
        return stages.queue.count, stages.success.count, s.execution_count

    before = counts()
    infer(pair, "m", _PAIR)
    assert counts() == tuple(c + 1 for c in before)
    (entry,) = pair.RepositoryIndex(pb.RepositoryIndexRequest()).models
    assert (entry.name, entry.version, entry.state) == ("m", "7", "READY")
    error = _error(lambda: pair.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m")))
    assert type(error) is Unimplemented


def test_stream(pair: Stub) -> None:
    good, bad = request("m", _PAIR, id="good"), request("m", {"a": _A}, id="bad")
    good.parameters["triton_enable_empty_final_response"].bool_param = True
    answers = list(pair.ModelStreamInfer(iter([good, bad, good]), timeout=20))
    assert [a.infer_response.id for a in answers] == ["good", "bad", "good"]
    assert [bool(a.error_message) for a in answers] == [False, True, False]
    assert answers[0].infer_response.parameters["triton_final_response"].bool_param
    strict = pair.ModelStreamInfer(
        iter([good, bad, good]), timeout=20, metadata=(("triton_grpc_error", "true"),)
    )
    assert next(strict).infer_response.id == "good"
    assert type(_error(lambda: next(strict))) is InvalidTensor


def _failure(host: Host) -> tuple[str, int]:
    reason = host.wait_stage("failed")["reason"]
    return reason, host.process.wait(30)


def test_corrupt_artifact(tmp_path: Path) -> None:
    path = _write(tmp_path, graphs.pair().SerializeToString()[:-40])
    with host_process(path, tmp_path) as host:
        reason, code = _failure(host)
    assert code == 3
    assert "onnxruntime cannot load the model" in reason


def test_wrong_digest(tmp_path: Path) -> None:
    path = _write(tmp_path, graphs.pair().SerializeToString())
    with host_process(path, tmp_path, expected_digest="sha256:" + "0" * 64) as host:
        reason, code = _failure(host)
        assert [s["stage"] for s in host.stages] == ["verifying", "failed"]
    assert code == 3
    assert "not the one that was registered" in reason


def test_golden_sample(tmp_path: Path) -> None:
    path = _write(tmp_path, graphs.pair().SerializeToString())
    golden = tmp_path / "golden.npz"
    arguments = ("--golden", str(golden))
    np.savez(golden, allow_pickle=False, **{"in.a": _A, "in.b": _A, "out.total": 2 * _A})
    with start_host(path, tmp_path, arguments=arguments) as host:
        stages = [s["stage"] for s in host.stages]
        assert stages == ["verifying", "loading", "warming", "proving", "serving"]
        assert host.terminate() == 0
    np.savez(golden, allow_pickle=False, **{"in.a": _A, "in.b": _A, "out.total": 3 * _A})
    with host_process(path, tmp_path, arguments=arguments) as host:
        reason, code = _failure(host)
    assert code == 3
    assert "output 'total' differs in 3 of 3 elements by up to 1" in reason


def test_maps_are_refused(tmp_path: Path) -> None:
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    x = np.array([[0.0], [1.0]], np.float32)
    classifier = LogisticRegression().fit(x, [0, 1])
    path = _write(tmp_path, to_onnx(classifier, x).SerializeToString())
    with host_process(path, tmp_path) as host:
        reason, code = _failure(host)
    assert code == 3
    assert "zipmap=False" in reason


def test_bad_flags_are_named(tmp_path: Path) -> None:
    path = _write(tmp_path, graphs.pair().SerializeToString())
    with host_process(path, tmp_path, arguments=("--threads", "none")) as host:
        assert host.process.wait(30) == 2
    assert "threads" in host.errors.read_text()


_LONG = {"rounds": np.array(10**12), "x": np.ones(4, np.float32)}
_SECOND = {"rounds": np.array(2 * 10**6), "x": np.ones(4, np.float32)}


def _busy(host: Host) -> float:
    times = psutil.Process(host.process.pid).cpu_times()
    return times.user + times.system


def _is_idle(host: Host) -> bool:
    before = _busy(host)
    time.sleep(0.25)
    return _busy(host) - before < 0.1


@pytest.mark.parametrize("how", ["cancel", "deadline", "timeout"])
def test_a_long_call_stops_computing(how: str, tmp_path: Path) -> None:
    path = _write(tmp_path, graphs.loop().SerializeToString())
    with start_host(path, tmp_path) as host, connect(host.address) as stub:
        call = request("m", _LONG)
        begun = _busy(host)
        if how == "timeout":
            call.parameters["timeout"].int64_param = 1_000_000
        future = stub.ModelInfer.future(call, timeout=1.0 if how == "deadline" else 60.0)
        _until(lambda: _busy(host) - begun > 0.3)
        if how == "cancel":
            future.cancel()
        else:
            assert type(_error(future.result)) is DeadlineExceeded
        _until(lambda: _is_idle(host))
        assert infer(stub, "m", {**_LONG, "rounds": np.array(1)})["y"].tolist() == [2] * 4
        assert host.terminate() == 0


def test_health_answers_while_a_model_computes(tmp_path: Path) -> None:
    path = _write(tmp_path, graphs.loop().SerializeToString())
    with start_host(path, tmp_path) as host, connect(host.address) as stub:
        future = stub.ModelInfer.future(request("m", _LONG), timeout=60)
        _until(lambda: not _is_idle(host))
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live
        future.cancel()


def test_sigterm_finishes_the_calls_it_has(tmp_path: Path) -> None:
    path = _write(tmp_path, graphs.loop().SerializeToString())
    with start_host(path, tmp_path) as host, connect(host.address) as stub:
        begun = _busy(host)
        future = stub.ModelInfer.future(request("m", _SECOND), timeout=60)
        _until(lambda: _busy(host) - begun > 0.2)
        host.process.terminate()
        assert len(future.result().outputs) == 1
        assert host.process.wait(30) == 0
        assert host.stages[-1]["stage"] in ("serving", "draining")
        assert type(_error(lambda: infer(stub, "m", _SECOND))) is HostGone


def test_a_host_without_supervisor_ends(tmp_path: Path) -> None:
    path = _write(tmp_path, graphs.pair().SerializeToString())
    alive = tmp_path / "supervisor.alive"
    alive.touch()
    arguments = ("--alive-file", str(alive), "--orphan-grace", "3")
    with start_host(path, tmp_path, arguments=arguments) as host:
        end = time.monotonic() + 4
        while time.monotonic() < end:
            os.utime(alive)
            time.sleep(0.3)
        assert host.process.poll() is None
        assert host.process.wait(30) == 0


def test_stage_lines_are_json(tmp_path: Path) -> None:
    path = _write(tmp_path, graphs.pair().SerializeToString())
    with start_host(path, tmp_path) as host:
        assert json.loads(json.dumps(host.stages[-1])) == {
            "stage": "serving",
            "address": host.address,
        }


def test_runs_that_do_not_end_in_time_do_not_spoil_the_end(tmp_path: Path) -> None:
    path = _write(tmp_path, graphs.loop().SerializeToString())
    flags = ("--workers", "4", "--drain-propagation", "0", "--drain-grace", "0.1")
    with start_host(path, tmp_path, arguments=flags) as host, connect(host.address) as stub:
        begun = _busy(host)
        calls = [stub.ModelInfer.future(request("m", _LONG), timeout=60) for _ in range(4)]
        _until(lambda: _busy(host) - begun > 0.2)
        assert host.terminate() == 0
        for call in calls:
            assert type(_error(call.result)) is HostGone
