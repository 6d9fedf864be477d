"""Asks the shadow's own hosts."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable

import grpc
from google.protobuf.message import DecodeError

from modelyard.calls import Method
from modelyard.catalog import Host, HostState
from modelyard.client.inference import outputs_of
from modelyard.errors import InvalidTensor
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.metadata import TARGET
from modelyard.names import VersionName
from modelyard.status import from_rpc_error
from services.shadow.observation import Reply

_INFER = "/inference.GRPCInferenceService/ModelInfer"
# What a reply says where no host came in time.
NO_HOST = "NO_HOST"
MALFORMED = "MALFORMED_ANSWER"


class Hosts:
    """The hosts of the shadow's pool.

    Args:
        open_channel: Opens a channel to an address.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, open_channel: Callable[[str], grpc.aio.Channel], clock: Callable[[], float]
    ) -> None:
        self._open_channel = open_channel
        self._clock = clock
        self._hosts: tuple[Host, ...] = ()
        self._channels: dict[str, tuple[grpc.aio.Channel, Method]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._turns: defaultdict[VersionName, itertools.count[int]] = defaultdict(itertools.count)
        self._changed = asyncio.Event()

    def update(self, hosts: tuple[Host, ...]) -> None:
        """Takes in who there is."""
        self._hosts = hosts
        known = {host.address for host in hosts}
        for address in [address for address in self._channels if address not in known]:
            channel, _ = self._channels.pop(address)
            task = asyncio.create_task(channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._changed.set()
        self._changed = asyncio.Event()

    async def close(self) -> None:
        """Closes every connection."""
        self.update(())
        await asyncio.gather(*self._closing, return_exceptions=True)

    def serving(self, version: VersionName) -> list[Host]:
        """The hosts that serve a version."""
        return [
            host
            for host in self._hosts
            if host.version == version and host.state is HostState.SERVING
        ]

    def why_not(self, version: VersionName) -> str:
        """Why a version has no serving host; "" where nobody says."""
        for host in self._hosts:
            if host.version == version and host.reason:
                return host.reason
        return ""

    async def wait(self, version: VersionName, seconds: float) -> bool:
        """Waits until a version is served; False where it is not in time."""
        try:
            async with asyncio.timeout(seconds):
                while not self.serving(version):
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def ask(self, version: VersionName, payload: bytes, timeout: float) -> Reply:
        """Gives a version a request, and says what it answered; never raises for a failure.

        Args:
            version: The version.
            payload: The serialized request.
            timeout: In seconds.
        """
        serving = self.serving(version)
        if not serving:
            return Reply(0.0, error=NO_HOST)
        host = serving[next(self._turns[version]) % len(serving)]
        known = self._channels.get(host.address)
        if known is None:
            channel = self._open_channel(host.address)
            known = self._channels[host.address] = (channel, Method(channel, _INFER))
        began = self._clock()
        try:
            raw = await known[1](payload, timeout, ((TARGET, str(version)),))
        except grpc.aio.UsageError:
            return Reply(self._clock() - began, error="HOST_GONE")
        except grpc.aio.AioRpcError as error:
            return Reply(self._clock() - began, error=from_rpc_error(error).reason)
        seconds = self._clock() - began
        try:
            return Reply(seconds, outputs_of(oip.ModelInferResponse.FromString(raw)), raw=raw)
        except (DecodeError, InvalidTensor):
            return Reply(seconds, error=MALFORMED)
