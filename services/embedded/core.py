"""Gateway and models on one event loop: the stack, the race and the engines, put together."""

import asyncio
import itertools
import random
from collections.abc import Sequence
from datetime import UTC, datetime

from gateway.access_log import AccessLog
from gateway.call import Answer, Metadata
from gateway.defaults import Defaults
from gateway.envelope import Envelope
from gateway.fronts.calls import call_of
from gateway.guards import Guards
from gateway.meter import Meter
from gateway.race import Racer
from gateway.replicas import Replicas
from gateway.router import Router
from gateway.stack import stack
from modelyard.catalog import Host, HostState
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.names import VersionName
from modelyard.telemetry import Tracing
from services.embedded.lane import Held, LocalEndpoint
from services.embedded.models import Loaded, catalogue
from services.inference.host.engine import Engine
from services.inference.host.service import ModelService
from services.inference.host.workers import Workers

# Seconds that a call gets whose caller gives none; the gateway's own default.
DEADLINE = 30.0
# Calls that may wait for a run of one model; a host's own default.
QUEUE = 256


class Core:
    """Answers calls of one process's models, on the running loop.

    Args:
        models: What it serves.
        threads: Runs of one model under way at once, where they are too long for the loop.
        access_log: The calls that a line of the log tells of: `none`, `failures` or `all`.
        deadline: Seconds that a call gets whose caller gives none.
        tracing: Makes spans of calls and attempts; None for none.

    Attributes:
        service: The stack.
        clock: Of every deadline, in seconds.
    """

    def __init__(
        self,
        models: Sequence[Loaded],
        threads: int,
        *,
        access_log: str,
        deadline: float = DEADLINE,
        tracing: Tracing | None = None,
    ) -> None:
        self.clock = asyncio.get_running_loop().time
        self.workers: dict[VersionName, Workers] = {}
        self.engines: dict[VersionName, Engine] = {}
        self._services: dict[VersionName, ModelService] = {}
        for loaded in models:
            version = loaded.version
            workers = self.workers[version] = Workers(threads, QUEUE)
            engine = Engine(version.model, loaded.model, workers, loaded.usual_ns)
            self.engines[version] = engine
            self._services[version] = ModelService(version, engine)
        self._held: dict[bytes, Held] = {}
        self._keys = itertools.count(1)
        now = datetime.now(UTC)
        self.catalog = catalogue(models, now)
        self.hosts = tuple(
            Host(version.model, version, HostState.SERVING, since=now) for version in self.engines
        )
        self.meter = Meter()
        self.replicas = Replicas(
            lambda host: LocalEndpoint(self._services[host.version], self._held),
            self.clock,
            random.Random(),
        )
        self.guards = Guards(self.replicas, self.clock, random.Random())
        # There is one host of each version: another attempt would find the same one.
        self.router = Router(lambda: self.catalog, self.clock, deadline, max_attempts=1)
        self._racer = Racer(
            self.replicas,
            self.guards,
            Defaults(lambda: self.catalog, self.clock),
            self.meter,
            self.clock,
            tracing,
        )
        access = AccessLog(access_log, self.clock)
        self.service = stack(
            self.router, self._racer, self.meter, access, self.clock, tracing=tracing
        )
        self.replicas.update(self.hosts)

    async def infer(
        self, head: Envelope, held: Held, timeout: float, metadata: Metadata, request_id: str
    ) -> Answer:
        """One call, whose answer is in `held`.

        Args:
            head: Who is asked.
            held: The arrays.
            timeout: Seconds that the caller gives it.
            metadata: What the caller says beside.
            request_id: The call's.

        Raises:
            ModelyardError: What is wrong with the call, or became of it.
        """
        key = next(self._keys).to_bytes(8)
        self._held[key] = held
        try:
            call = call_of(head, key, timeout, metadata, request_id, self.clock())
            return await self.service(call)
        finally:
            del self._held[key]

    def has_room(self, model: str) -> bool:
        """Tells whether a call of the model would not have to wait for others."""
        version = VersionName(model, 1)
        return version not in self.engines or self.guards.limiter(version).has_room

    def metadata(self, model: str, selector: str) -> oip.ModelMetadataResponse:
        """The inputs and outputs of a model.

        Raises:
            ModelNotFound, VersionNotFound, LabelNotFound: There is no such thing.
        """
        version = self.catalog.resolve(model, selector)
        return self._services[version].metadata(oip.ModelMetadataRequest(), str(version))

    async def close(self) -> None:
        """Ends the threads, once no call is under way any more."""
        await self._racer.close()
        await self.replicas.close()
        for workers in self.workers.values():
            workers.close()
