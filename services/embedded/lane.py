"""The lane to a model in this process: a function call."""

from gateway.call import Metadata
from modelyard.errors import Unimplemented
from modelyard.interceptors import as_ours
from modelyard.metadata import TARGET
from services.inference.host.methods import methods
from services.inference.host.service import ModelService


class LocalEndpoint:
    """An endpoint to a model in this process. Implements `gateway.call.Endpoint`."""

    lane = "process"

    def __init__(self, service: ModelService) -> None:
        self._methods = methods(service)

    async def call(self, method: str, payload: bytes, metadata: Metadata, timeout: float) -> bytes:
        """Answers one request; see `Endpoint.call`."""
        handler = self._methods.get(method)
        if handler is None:
            raise Unimplemented(f"{method} is not among the methods of a model")
        target = next((v for k, v in metadata if k == TARGET and isinstance(v, str)), None)
        try:
            return await handler(payload, target, timeout)
        except (
            Exception
        ) as error:  # Whatever it is, the race gets an error of ours, as from a host.
            raise as_ours(error, method, metadata) from error.__cause__

    async def close(self) -> None:
        """Nothing to close; see `Endpoint.close`."""
