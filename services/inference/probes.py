"""Asks hosts whether they are well."""

import asyncio
import time
from collections.abc import Callable

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.inference.v2 import open_inference_pb2_grpc as pb_grpc
from modelyard.metadata import TARGET
from modelyard.names import VersionName

# What a host's process that does not work answers with: nothing. Any other status is an answer.
_NO_ANSWER = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class Prober:
    """Checks hosts over one channel each.

    Args:
        open_channel: Opens a channel to an address.
        timeout: For one check, in seconds.
    """

    def __init__(self, open_channel: Callable[[str], grpc.aio.Channel], timeout: float) -> None:
        self._open_channel = open_channel
        self._timeout = timeout
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def healthy(self, address: str) -> bool:
        """Tells whether the host answers. NOT_SERVING is an answer too: it is on its way out."""
        stub = health_pb2_grpc.HealthStub(self._channel(address))
        begun = time.monotonic()
        try:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            # When this process itself was held up, the miss says nothing about the host.
            held_up = time.monotonic() - begun > self._timeout + 0.5
            return held_up or error.code() not in _NO_ANSWER
        return True

    async def serves(self, address: str, version: VersionName) -> bool:
        """Tells whether a host at this address serves this very version."""
        stub = pb_grpc.GRPCInferenceServiceStub(self._channel(address))
        try:
            answer: pb.ModelReadyResponse = await stub.ModelReady(
                pb.ModelReadyRequest(name=version.model, version=str(version.number)),
                metadata=((TARGET, str(version)),),
                timeout=self._timeout,
            )
        except grpc.aio.AioRpcError:
            return False
        return answer.ready

    async def forget(self, keep: set[str]) -> None:
        """Closes the channels to all other addresses."""
        gone = [address for address in self._channels if address not in keep]
        await asyncio.gather(*(self._channels.pop(address).close() for address in gone))

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            self._channels[address] = self._open_channel(address)
        return self._channels[address]
