"""The local lane: frames over a unix socket, to a host on this machine.

One connection a host carries all its calls. While it is not there, another lane is asked.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine

from gateway.call import Endpoint, Metadata
from gateway.lanes.connection import Connection, late
from modelyard.backoff import Backoff
from modelyard.errors import HostGone
from modelyard.links import GREETING

_log = logging.getLogger(__name__)

# The first calls wait so long for the connection before they take another lane, in seconds.
_FIRST = 0.25
_BACKOFF = Backoff(first=0.05, factor=2.0, limit=5.0)


class FrameEndpoint:
    """An endpoint over the local lane. Implements `gateway.call.Endpoint`.

    Connects as soon as it is made, and again whenever the connection ends.

    Args:
        address: `unix:/path`.
        largest: The largest message, in bytes.
        beside: Makes the endpoint that is asked while there is no connection; None for none.
        chance: Draws the pauses between two tries.
    """

    def __init__(
        self,
        address: str,
        largest: int,
        beside: Callable[[], Endpoint] | None,
        chance: random.Random,
    ) -> None:
        self._path = address.removeprefix("unix:")
        self._largest = largest
        self._make_beside = beside
        self._beside: Endpoint | None = None
        self._chance = chance
        self._connection: Connection | None = None
        self._tried = asyncio.Event()
        self._closed = False
        self._keeper = asyncio.create_task(self._keep())

    @property
    def lane(self) -> str:
        """Which lane the next call takes."""
        if self._usable() is not None or self._make_beside is None:
            return "frames"
        return "grpc"

    def call(
        self, method: str, payload: bytes, metadata: Metadata, timeout: float
    ) -> Coroutine[None, None, bytes]:
        """Sends one request; see `Endpoint.call`."""
        connection = self._usable()
        if connection is not None:
            return connection.call(method, payload, metadata, timeout)
        return self._call_otherwise(method, payload, metadata, timeout)

    def _usable(self) -> Connection | None:
        """The connection, unless it has ended; one that was told of a drain says so itself."""
        connection = self._connection
        return connection if connection is not None and not connection.ended else None

    async def _call_otherwise(
        self, method: str, payload: bytes, metadata: Metadata, timeout: float
    ) -> bytes:
        if not self._tried.is_set():
            began = asyncio.get_running_loop().time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(timeout, _FIRST)):
                    await self._tried.wait()
            timeout -= asyncio.get_running_loop().time() - began
        if timeout <= 0:
            raise late()
        connection = self._usable()
        if connection is not None:
            return await connection.call(method, payload, metadata, timeout)
        if self._closed or self._make_beside is None:
            raise HostGone("there is no connection to the host")
        if self._beside is None:
            self._beside = self._make_beside()
        return await self._beside.call(method, payload, metadata, timeout)

    async def close(self) -> None:
        """Closes the connection; see `Endpoint.close`."""
        self._closed = True
        self._keeper.cancel()
        if self._connection is not None:
            self._connection.close("the gateway ends")
            self._connection = None
        if self._beside is not None:
            await self._beside.close()
        await asyncio.gather(self._keeper, return_exceptions=True)

    async def _keep(self) -> None:
        """Keeps a connection."""
        failures = 0
        while True:
            why = "it does not greet"
            try:
                connection = await self._open()
            except (OSError, ValueError) as error:  # the second is of a path that can be none
                why = str(error)
            else:
                if connection.open:
                    failures = 0
                    self._connection = connection
                    self._tried.set()
                    _log.debug("frames to %s", self._path)
                    await connection.over
                    self._connection = None
                why = connection.ended or "it ends"
                connection.close("no calls are taken")
            failures += 1
            self._tried.set()
            if failures == 1:
                _log.info("no frames to %s: %s", self._path, why)
            await asyncio.sleep(_BACKOFF.wait(failures, self._chance))

    async def _open(self) -> Connection:
        """A connection that was greeted, or is over; raises OSError where nobody listens."""
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_unix_connection(
            lambda: Connection(self._largest), self._path
        )
        try:
            async with asyncio.timeout(GREETING):
                await connection.known
        except BaseException:
            transport.abort()
            raise
        return connection
