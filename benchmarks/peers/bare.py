"""A bare grpc.aio server with onnxruntime: what is left when everything else is taken away.

It decodes, runs and encodes as a host does, and checks nothing. One output and one input
after another, raw contents alone. What perf_analyzer asks before it measures is answered, too.
"""

import argparse
import asyncio
from typing import Any, TypeAlias

import grpc
import numpy as np
import onnxruntime as ort
from google.protobuf.message import Message

from modelyard.inference.v2 import open_inference_pb2 as pb

_DTYPES = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "INT32": np.int32}
_DATATYPES = {np.dtype(v): k for k, v in _DTYPES.items()}
_ORT = {"tensor(float)": "FP32", "tensor(double)": "FP64"}
_ORT |= {"tensor(int64)": "INT64", "tensor(int32)": "INT32"}
_LIMIT = 128 << 20
_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class Bare:
    """Runs the model on the event loop, whatever its name."""

    def __init__(self, path: str) -> None:
        options = ort.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._outputs = [o.name for o in self._session.get_outputs()]
        self._count = 0

    async def infer(
        self,
        request: pb.ModelInferRequest,
        context: _Context,
    ) -> pb.ModelInferResponse:
        """One inference."""
        feeds = {
            tensor.name: np.frombuffer(raw, _DTYPES[tensor.datatype]).reshape(tuple(tensor.shape))
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        response = pb.ModelInferResponse(
            model_name=request.model_name, model_version="1", id=request.id
        )
        for name, array in zip(self._outputs, self._session.run(None, feeds), strict=True):
            response.outputs.add(name=name, datatype=_DATATYPES[array.dtype], shape=array.shape)
            response.raw_output_contents.append(array.tobytes())
        self._count += 1
        return response

    async def server(self, request: pb.ServerMetadataRequest, context: _Context) -> Message:
        """What the server is."""
        return pb.ServerMetadataResponse(name="bare", version="1")

    async def metadata(self, request: pb.ModelMetadataRequest, context: _Context) -> Message:
        """The inputs and outputs."""
        tensor = pb.ModelMetadataResponse.TensorMetadata
        inputs, outputs = (
            [
                tensor(
                    name=t.name,
                    datatype=_ORT[t.type],
                    shape=[dim if isinstance(dim, int) else -1 for dim in t.shape],
                )
                for t in tensors
            ]
            for tensors in (self._session.get_inputs(), self._session.get_outputs())
        )
        return pb.ModelMetadataResponse(
            name=request.name, versions=["1"], platform="onnx", inputs=inputs, outputs=outputs
        )

    async def config(self, request: pb.ModelConfigRequest, context: _Context) -> Message:
        """Next to nothing."""
        return pb.ModelConfigResponse(config=pb.ModelConfig(name=request.name))

    async def statistics(self, request: pb.ModelStatisticsRequest, context: _Context) -> Message:
        """How many inferences there were."""
        counts = pb.ModelStatistics(
            name=request.name,
            version="1",
            inference_count=self._count,
            execution_count=self._count,
            inference_stats=pb.InferStatistics(success=pb.StatisticDuration(count=self._count)),
        )
        return pb.ModelStatisticsResponse(model_stats=[counts])


async def serve(path: str, port: int) -> None:
    """Serves until the process ends; prints `ready PORT`."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", _LIMIT),
            ("grpc.max_send_message_length", _LIMIT),
        ]
    )
    bare = Bare(path)
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=getattr(pb, f"{method}Request").FromString,
            response_serializer=getattr(pb, f"{method}Response").SerializeToString,
        )
        for method, answer in (
            ("ModelInfer", bare.infer),
            ("ServerMetadata", bare.server),
            ("ModelMetadata", bare.metadata),
            ("ModelConfig", bare.config),
            ("ModelStatistics", bare.statistics),
        )
    }
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(f"ready {bound}", flush=True)
    await server.wait_for_termination()


def main() -> None:
    """Reads the flags and serves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="the ONNX file")
    parser.add_argument("--port", type=int, default=0, help="0 for any free one")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.model, arguments.port))


if __name__ == "__main__":
    main()
