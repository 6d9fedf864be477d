"""The lane to a model in this process: a function call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from gateway.call import INFER, Metadata
from modelyard.errors import Unimplemented
from modelyard.interceptors import as_ours
from modelyard.metadata import TARGET
from services.inference.host.methods import methods
from services.inference.host.service import ModelService


@dataclass(slots=True)
class Held:
    """A request that never was serialized. What goes through the stack for it is its key.

    Attributes:
        arrays: The inputs by name.
        outputs: The names of the wanted outputs; all of them when empty.
        answer: The outputs by name, once there are any.
    """

    arrays: Mapping[str, NDArray[Any]]
    outputs: Sequence[str]
    answer: Mapping[str, NDArray[Any]] | None = None


class LocalEndpoint:
    """An endpoint to a model in this process. Implements `gateway.call.Endpoint`.

    Args:
        service: Answers.
        held: The requests that are here as arrays, by their keys; any other payload is a message.
    """

    lane = "process"

    def __init__(self, service: ModelService, held: Mapping[bytes, Held]) -> None:
        self._service = service
        self._held = held
        self._methods = methods(service)

    async def call(self, method: str, payload: bytes, metadata: Metadata, timeout: float) -> bytes:
        """Answers one request; see `Endpoint.call`."""
        target = next((v for k, v in metadata if k == TARGET and isinstance(v, str)), "")
        try:
            held = self._held.get(payload) if method == INFER else None
            if held is not None:
                held.answer = await self._service.infer_arrays(
                    held.arrays, held.outputs, target, timeout
                )
                return payload
            handler = self._methods.get(method)
            if handler is None:
                raise Unimplemented(f"{method} is not among the methods of a model")
            return await handler(payload, target or None, timeout)
        except Exception as error:  # Whatever it is, the race gets one of ours.
            raise as_ours(error, method, metadata) from error.__cause__

    async def close(self) -> None:
        """Nothing to close; see `Endpoint.close`."""
