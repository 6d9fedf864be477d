"""The node tests of the `onnx` package: a host's answers are onnxruntime's, in every datatype.

Each case is served by a servicer of its own over a real channel, in this process: hundreds of
processes would take minutes to start and show nothing more about types.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import onnxruntime as ort
import pytest

from modelyard.errors import InvalidArtifact
from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.inference.v2 import open_inference_pb2_grpc as pb_grpc
from modelyard.names import VersionName
from services.inference.host.engine import Engine
from services.inference.host.service import ModelService
from services.inference.host.servicer import HostServicer
from services.inference.host.session import OnnxModel, SessionSettings
from services.inference.host.tensors import DTYPES
from services.inference.host.workers import Workers
from tests.kit import graphs
from tests.kit.host import Array, arrays_of, request

# Of some 1,300; fewer means that the test lost its cases.
_LEAST = 1000
# Random by design: two runs differ.
_RANDOM = ("dropout", "random", "bernoulli", "multinomial", "training")


def _cases() -> Iterator[tuple[str, bytes, dict[str, Array]]]:
    """Name, model and inputs of each case that the protocol can carry.

    The package's cases with plain tensors and, of operators that onnxruntime has for every
    type, one for each datatype, so that none is missing whatever the package holds.
    """
    from onnx.backend.test.case.node import collect_testcases  # slow to import

    for datatype, dtype in DTYPES.items():
        values = ["", "a", "ü"] if datatype == "BYTES" else [0, 1, 1]
        array = np.array(values, dtype)
        yield f"identity_{datatype}", graphs.identity(datatype).SerializeToString(), {"x": array}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases compute with overflows on purpose
        cases = collect_testcases(None)
    for case in sorted(cases, key=lambda c: c.name):
        assert case.model is not None
        graph = case.model.graph
        ends = [*graph.input, *graph.output]
        if any(word in case.name for word in _RANDOM) or not case.data_sets:
            continue
        if not all(end.type.HasField("tensor_type") for end in ends):
            continue
        arrays = [
            np.asarray(a) for a in case.data_sets[0][0] if not hasattr(a, "SerializeToString")
        ]
        names = [i.name for i in graph.input]
        if len(arrays) == len(names):
            yield case.name, case.model.SerializeToString(), dict(zip(names, arrays, strict=True))


def _directly(model: bytes, feeds: dict[str, Array]) -> list[Array] | None:
    """What onnxruntime alone says; None where it cannot run the case."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return list(session.run(None, feeds))
    except Exception:
        return None


def _as_texts(array: Array) -> Array:
    if array.dtype.kind not in "OSU":
        return array
    texts = [e.decode() if isinstance(e, bytes) else e for e in array.ravel().tolist()]
    return np.array([*texts, None], object)[:-1].reshape(array.shape)


@pytest.mark.timeout(180)
async def test_node_cases_agree_with_onnxruntime(tmp_path: Path) -> None:
    workers = Workers(1, 8)
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    seen: set[str] = set()
    agreed = 0
    serving: list[HostServicer] = []

    async def infer(
        call: pb.ModelInferRequest,
        context: grpc.aio.ServicerContext[pb.ModelInferRequest, pb.ModelInferResponse],
    ) -> pb.ModelInferResponse:
        return await serving[-1].ModelInfer(call, context)

    handler = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"ModelInfer": handler}),)
    )
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        for name, model, feeds in _cases():
            feeds = {n: _as_texts(a) for n, a in feeds.items()}
            # numpy has no bfloat16 for onnxruntime: an identity's answer is its input.
            expected = [feeds["x"]] if name == "identity_BF16" else _directly(model, feeds)
            if expected is None:
                continue
            path = tmp_path / "model.onnx"
            path.write_bytes(model)
            try:
                onnx_model = OnnxModel(path, SessionSettings(threads=1))
            except InvalidArtifact as refused:
                assert "protocol cannot carry" in refused.message, name
                continue
            engine = Engine("m", onnx_model, workers, usual_ns=1e3)
            serving[:] = [HostServicer(ModelService(VersionName("m", 1), engine))]
            response = await stub.ModelInfer(request("m", feeds), timeout=60)
            got = list(arrays_of(response).values())
            assert len(got) == len(expected), name
            for have, want in zip(got, expected, strict=True):
                want = np.asarray(want)
                if have.dtype.kind == "O":
                    assert _as_texts(have).tolist() == _as_texts(want).tolist(), name
                else:
                    assert have.dtype == want.dtype, name
                    np.testing.assert_allclose(
                        have.astype(np.float64), want.astype(np.float64), rtol=1e-6, err_msg=name
                    )
                assert have.shape == want.shape, name
            seen |= {t.datatype for t in onnx_model.signature.inputs}
            agreed += 1
    await server.stop(None)
    workers.close()
    assert seen == set(DTYPES)
    assert agreed >= _LEAST
