"""A bare grpc.aio server with onnxruntime: what is left when everything else is taken away.

It decodes, runs and encodes as a host does, and checks nothing. One output and one input
after another, raw contents alone.
"""

import argparse
import asyncio

import grpc
import numpy as np
import onnxruntime as ort

from modelyard.inference.v2 import open_inference_pb2 as pb

_DTYPES = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "INT32": np.int32}
_DATATYPES = {np.dtype(v): k for k, v in _DTYPES.items()}
_LIMIT = 128 << 20


class Bare:
    """Runs the model on the event loop, whatever its name."""

    def __init__(self, path: str) -> None:
        options = ort.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._outputs = [o.name for o in self._session.get_outputs()]

    async def infer(
        self,
        request: pb.ModelInferRequest,
        context: grpc.aio.ServicerContext[pb.ModelInferRequest, pb.ModelInferResponse],
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
        return response


async def serve(path: str, port: int) -> None:
    """Serves until the process ends; prints `ready PORT`."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", _LIMIT),
            ("grpc.max_send_message_length", _LIMIT),
        ]
    )
    handler = grpc.unary_unary_rpc_method_handler(
        Bare(path).infer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"ModelInfer": handler}),)
    )
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
