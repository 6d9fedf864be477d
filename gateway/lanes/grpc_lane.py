"""The plain lane: unary gRPC to a host on any machine, bytes through."""

import math
from collections.abc import Callable, Iterable

import grpc

from gateway.call import INFER, Metadata
from modelyard.calls import Method
from modelyard.channels import open_channel
from modelyard.errors import HostGone
from modelyard.status import from_rpc_error

PUSHBACK = "grpc-retry-pushback-ms"
_SERVICE = "/inference.GRPCInferenceService/"


class GrpcEndpoint:
    """An endpoint over one gRPC channel. Implements `gateway.call.Endpoint`."""

    def __init__(self, address: str, max_message_bytes: int) -> None:
        # The race retries, and counts.
        self._channel = open_channel(address, max_message_bytes=max_message_bytes, retries=False)
        self._methods: dict[str, Method] = {}
        self._infer = self._method(INFER)

    async def call(self, method: str, payload: bytes, metadata: Metadata, timeout: float) -> bytes:
        """Sends one request; see `Endpoint.call`."""
        send = self._infer if method == INFER else self._method(method)
        try:
            return await send(payload, timeout, metadata)
        except grpc.aio.UsageError:
            raise HostGone("the connection to the host is closed") from None
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.CANCELLED:
                # Not by us, for then this would be CancelledError: a server that ends cancels
                # what reached it and had not begun.
                raise HostGone("the host ended the call before it began") from None
            known = from_rpc_error(error)
            known.pushback = _pushback(error.trailing_metadata() or ())
            raise known from None

    async def close(self) -> None:
        """Closes the channel; see `Endpoint.close`."""
        await self._channel.close()

    def _method(self, method: str) -> Method:
        known = self._methods.get(method)
        if known is None:
            known = self._methods[method] = Method(self._channel, _SERVICE + method)
        return known


def _pushback(trailing: Iterable[tuple[str, str | bytes]]) -> float | None:
    """How long the host wants to pass before a retry (gRFC A6): negative or no number: for ever."""
    for key, value in trailing:
        if key == PUSHBACK:
            text = value if isinstance(value, str) else value.decode(errors="replace")
            return int(text) / 1e3 if text.isascii() and text.isdigit() else math.inf
    return None


def connector(max_message_bytes: int) -> Callable[[str], GrpcEndpoint]:
    """Opens endpoints over this lane."""
    return lambda address: GrpcEndpoint(address, max_message_bytes)
