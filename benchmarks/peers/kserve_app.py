"""KServe with the same ONNX file, as its documentation writes a custom model.

Run by the Python of its own environment: `python kserve_app.py FILE GRPC_PORT HTTP_PORT`.
"""

import sys
from typing import Any

import kserve
import onnxruntime as ort


class OnnxModel(kserve.Model):  # type: ignore[misc]  # from another environment
    """Runs the session in `predict`."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        options = ort.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._outputs = [o.name for o in self._session.get_outputs()]
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """One inference."""
        feeds = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        outputs = []
        for name, array in zip(self._outputs, self._session.run(None, feeds), strict=True):
            output = kserve.InferOutput(name=name, shape=list(array.shape), datatype="FP32")
            output.set_data_from_numpy(array, binary_data=True)
            outputs.append(output)
        return kserve.InferResponse(
            response_id=payload.id, model_name=self.name, infer_outputs=outputs
        )


if __name__ == "__main__":
    _, path, grpc_port, http_port = sys.argv
    kserve.ModelServer(
        http_port=int(http_port), grpc_port=int(grpc_port), enable_latency_logging=False
    ).start([OnnxModel("mlp", path)])
