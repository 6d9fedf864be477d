"""Endpoints that are just a callable: hosts of any temper, in memory, on virtual time."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from gateway.call import Metadata
from gateway.defaults import Defaults
from gateway.guards import Guards
from gateway.meter import Meter
from gateway.race import Racer
from gateway.replicas import Replicas
from modelyard.catalog import Catalog, Host, HostState
from modelyard.errors import DeadlineExceeded
from modelyard.names import VersionName

Behaviour = Callable[[bytes], Awaitable[bytes]]


class CallableEndpoint:
    """Answers with what a callable gives; counts what came and what was cancelled."""

    lane = "memory"

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.begun = 0
        self.ended = 0
        self.cancelled = 0
        self.closed = False
        self.metadata: list[Metadata] = []

    async def call(self, method: str, payload: bytes, metadata: Metadata, timeout: float) -> bytes:
        """See `gateway.call.Endpoint`."""
        self.begun += 1
        self.metadata.append(metadata)
        try:
            async with asyncio.timeout(timeout):
                return await self.behaviour(payload)
        except TimeoutError:
            raise DeadlineExceeded("no answer in time") from None
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.ended += 1

    async def close(self) -> None:
        """See `gateway.call.Endpoint`."""
        self.closed = True


def answers(text: bytes, after: float = 0.0) -> Behaviour:
    """Answers `text` after so many seconds."""

    async def behave(payload: bytes) -> bytes:
        await asyncio.sleep(after)
        return text

    return behave


def fails(error: Callable[[], Exception], after: float = 0.0) -> Behaviour:
    """Fails after so many seconds."""

    async def behave(payload: bytes) -> bytes:
        await asyncio.sleep(after)
        raise error()

    return behave


def host(identity: str, version: VersionName, state: HostState = HostState.SERVING) -> Host:
    """A host whose address is its id."""
    return Host(id=identity, version=version, state=state, address=identity)


def replicas_of(
    endpoints: dict[str, CallableEndpoint], clock: Callable[[], float], seed: int = 1
) -> Replicas:
    """Replicas whose addresses are the keys of `endpoints`."""
    return Replicas(lambda host: endpoints[host.address], clock, random.Random(seed))


def racer_of(
    replicas: Replicas,
    clock: Callable[[], float],
    meter: Meter | None = None,
    catalog: Catalog | None = None,
) -> Racer:
    """A racer with guards of its own."""
    guards = Guards(replicas, clock, random.Random(1))
    known = catalog or Catalog()
    return Racer(replicas, guards, Defaults(lambda: known, clock), meter or Meter(), clock)
