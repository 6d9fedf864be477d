"""The plain lane: unary gRPC to a host on any machine, bytes through."""

import grpc

from gateway.call import INFER, Metadata
from gateway.lanes.failures import failure
from modelyard.calls import Method
from modelyard.channels import open_channel
from modelyard.errors import HostGone

_SERVICE = "/inference.GRPCInferenceService/"


class GrpcEndpoint:
    """An endpoint over one gRPC channel. Implements `gateway.call.Endpoint`."""

    lane = "grpc"

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
            raise failure(
                error.code().value[0], error.details() or "", error.trailing_metadata() or ()
            ) from None

    async def close(self) -> None:
        """Closes the channel; see `Endpoint.close`."""
        for method in self._methods.values():
            method.stop()
        await self._channel.close()

    def _method(self, method: str) -> Method:
        known = self._methods.get(method)
        if known is None:
            known = self._methods[method] = Method(self._channel, _SERVICE + method)
        return known
