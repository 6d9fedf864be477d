"""The paths that fronts answer by themselves; every other one is the grpc.aio server's."""

from typing import Final

INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
STREAM: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
# The Open Inference Protocol over HTTP, and all below it.
REST: Final = "/v2"
