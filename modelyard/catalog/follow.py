"""Follows the registry: the catalogue and the hosts as last heard, whatever becomes of it.

A follower keeps its last view while the registry is away, tries again for ever, and goes on
from the revision it has, so that no change is missed or seen twice.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from modelyard.backoff import Backoff
from modelyard.catalog.catalog import Catalog
from modelyard.catalog.convert import change_from, hosts_from, snapshot_from
from modelyard.catalog.hosts import CALLERS, Host
from modelyard.registry.v1 import (
    host_service_pb2,
    host_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
)

_log = logging.getLogger(__name__)

# The registry sends a sign of life every 2 s: after three without one the stream is dead.
SILENCE = 6.0
_BACKOFF = Backoff(first=0.05, factor=2.0, limit=1.0)


class _Follower:
    """Holds a stream open for ever; what it carries is the subclass's."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._task: asyncio.Task[None] | None = None
        self._chance = random.Random()
        self.heard_at: float | None = None

    def start(self) -> None:
        """Begins to follow, in a task of the running loop."""
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Ends the stream; the last view stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                heard = False
                async for _ in self._stream():
                    self.heard_at = asyncio.get_running_loop().time()
                    if failures:
                        _log.info("%s: heard again", self._what)
                    failures, heard = 0, True
                if not heard:
                    failures += 1
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                failures += 1
                if failures == 1:
                    told = error.details() if isinstance(error, grpc.aio.AioRpcError) else "silent"
                    _log.warning("%s: lost (%s); going on with the last view", self._what, told)
            except Exception:
                # A change that cannot be read must not end the following of those that can.
                failures += 1
                _log.exception("%s: failed", self._what)
            await asyncio.sleep(_BACKOFF.wait(max(failures, 1), self._chance))

    def _stream(self) -> AsyncIterator[None]:
        """Yields once for each thing heard."""
        raise NotImplementedError


class CatalogFollower(_Follower):
    """Keeps the catalogue.

    Args:
        channel: To the registry.
        initial: A view to begin with, such as one that was saved.
    """

    def __init__(self, channel: grpc.aio.Channel, initial: Catalog | None = None) -> None:
        super().__init__("registry")
        self._stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self._listeners: list[Callable[[Catalog], None]] = []
        self._moved = asyncio.Event()
        self.catalog = initial or Catalog()
        # Whose view is held nobody knows: a saved one's, or another registry's.
        self._anew = True

    @property
    def revision(self) -> int:
        """Of the catalogue that is held."""
        return self.catalog.revision

    def on_change(self, listener: Callable[[Catalog], None]) -> None:
        """Calls `listener` with each new catalogue, and now with the one that is held."""
        self._listeners.append(listener)
        listener(self.catalog)

    async def wait_for(self, revision: int, timeout: float) -> bool:
        """Waits until the catalogue has reached a revision.

        Returns:
            False when `timeout` seconds passed first.
        """
        try:
            async with asyncio.timeout(timeout):
                while self.catalog.revision < revision:
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    async def wait_heard(self, timeout: float) -> bool:
        """Waits until the registry was heard once; False when `timeout` seconds passed first."""
        try:
            async with asyncio.timeout(timeout):
                while self.heard_at is None:
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    async def _stream(self) -> AsyncIterator[None]:
        request = registry_service_pb2.WatchRequest(
            revision=0 if self._anew else self.catalog.revision
        )
        call = self._stub.Watch(request)
        try:
            while True:
                async with asyncio.timeout(SILENCE):
                    response: Any = await call.read()
                if response is grpc.aio.EOF:
                    return
                match response.WhichOneof("event"):
                    case "snapshot":
                        self._take(snapshot_from(response.snapshot))
                    case "change":
                        self._take(self.catalog.apply(change_from(response.change)))
                yield
        except grpc.aio.AioRpcError as error:
            # Ahead of the registry: it is another one, or it lost its log. Begin anew, with
            # the last view until then, which is as old as it was.
            if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                self._anew = True
            raise
        finally:
            call.cancel()

    def _take(self, catalog: Catalog) -> None:
        self.catalog, self._anew = catalog, False
        if self.heard_at is None:
            self.heard_at = asyncio.get_running_loop().time()
        self._moved.set()
        self._moved = asyncio.Event()
        for listener in self._listeners:
            listener(catalog)


class HostsFollower(_Follower):
    """Keeps the hosts of one pool.

    Args:
        channel: To the registry.
        pool: Whom they answer: callers, or evaluations alone.
    """

    def __init__(self, channel: grpc.aio.Channel, pool: str = CALLERS) -> None:
        super().__init__("hosts")
        self._pool = pool
        self._stub = host_service_pb2_grpc.HostServiceStub(channel)
        self._listeners: list[Callable[[tuple[Host, ...]], None]] = []
        self._heard = asyncio.Event()
        self.hosts: tuple[Host, ...] = ()

    def on_change(self, listener: Callable[[tuple[Host, ...]], None]) -> None:
        """Calls `listener` with the hosts at each change, and now with those that are held."""
        self._listeners.append(listener)
        listener(self.hosts)

    async def wait_heard(self, timeout: float) -> bool:
        """Waits until the hosts were told once; False when `timeout` seconds passed first."""
        try:
            async with asyncio.timeout(timeout):
                await self._heard.wait()
        except TimeoutError:
            return False
        return True

    async def _stream(self) -> AsyncIterator[None]:
        call = self._stub.WatchHosts(host_service_pb2.WatchHostsRequest())
        try:
            while True:
                async with asyncio.timeout(SILENCE):
                    response: Any = await call.read()
                if response is grpc.aio.EOF:
                    return
                hosts = tuple(h for h in hosts_from(response.hosts) if h.pool == self._pool)
                if hosts != self.hosts:
                    self.hosts = hosts
                    for listener in self._listeners:
                        listener(hosts)
                self._heard.set()
                yield
        finally:
            call.cancel()
