"""The replicas that the gateway may send attempts to: who is there, who rests, who is leaving."""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from gateway.balancer import Loaded, PeakEwma, pick
from gateway.call import Endpoint
from modelyard.catalog import Host, HostState
from modelyard.names import VersionName

_log = logging.getLogger(__name__)

# A replica whose connection failed rests, so that calls go where an answer is likely.
# Seconds: the first rest, doubled at each failure in a row, up to the last.
FIRST_REST, LAST_REST = 0.05, 2.0


@dataclass(slots=True)
class Record:
    """How a replica's attempts ended of late, for who compares it with its peers."""

    since: float
    in_a_row: int = 0
    succeeded: int = 0
    failed: int = 0
    ejections: int = 0
    ejected_until: float = 0.0

    @property
    def attempts(self) -> int:
        """All of them."""
        return self.succeeded + self.failed

    def restart(self, now: float) -> None:
        """Begins to count anew."""
        self.since, self.succeeded, self.failed = now, 0, 0


class Replica(Loaded):
    """One host, as the gateway sees it."""

    __slots__ = ("at", "disconnects", "endpoint", "host", "record", "rests_until", "version")

    def __init__(self, host: Host, endpoint: Endpoint, now: float) -> None:
        super().__init__(PeakEwma(now))
        self.host = host.id
        self.version = host.version
        # By gRPC, and by frames.
        self.at = (host.address, host.frames_address)
        self.endpoint = endpoint
        self.disconnects = 0
        self.rests_until = 0.0
        self.record = Record(now)

    @property
    def address(self) -> str:
        """Where it answers by gRPC."""
        return self.at[0]

    def succeeded(self) -> None:
        """It answered."""
        self.disconnects = 0
        self.record.in_a_row = 0
        self.record.succeeded += 1

    def disconnected(self, now: float) -> None:
        """Its connection failed: let it rest."""
        rest = min(FIRST_REST * 2.0**self.disconnects, LAST_REST)
        self.rests_until = max(self.rests_until, now + rest)
        self.disconnects = min(self.disconnects + 1, 16)


class Replicas:
    """All replicas, by version. Follows the hosts that the registry tells of.

    Args:
        connect: Opens an endpoint to a host.
        clock: Seconds, monotonic.
        chance: Draws the candidates.
    """

    def __init__(
        self,
        connect: Callable[[Host], Endpoint],
        clock: Callable[[], float],
        chance: random.Random,
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._chance = chance
        self._by_host: dict[str, Replica] = {}
        self._by_version: dict[VersionName, list[Replica]] = {}
        self._expected: frozenset[VersionName] = frozenset()
        self._changed = asyncio.Event()
        self._retiring: set[asyncio.Task[None]] = set()
        self._came: Callable[[Replica], None] = lambda replica: None
        self._went: Callable[[Replica], None] = lambda replica: None

    def tell(self, came: Callable[[Replica], None], went: Callable[[Replica], None]) -> None:
        """Has each replica that comes, and each that goes, told."""
        self._came, self._went = came, went

    def update(self, hosts: Iterable[Host]) -> None:
        """Takes the hosts as they are now: opens what is new, retires what is gone."""
        hosts = tuple(hosts)
        serving = {h.id: h for h in hosts if h.state is HostState.SERVING}
        for gone in self._by_host.keys() - serving.keys():
            self._retire(self._by_host.pop(gone))
        for host in serving.values():
            known = self._by_host.get(host.id)
            if known is not None and known.at == (host.address, host.frames_address):
                continue
            if known is not None:
                self._retire(known)
            endpoint = self._connect(host)
            replica = self._by_host[host.id] = Replica(host, endpoint, self._clock())
            self._came(replica)
        by_version: dict[VersionName, list[Replica]] = {}
        for replica in self._by_host.values():
            by_version.setdefault(replica.version, []).append(replica)
        self._by_version = by_version
        coming = (HostState.PENDING, HostState.LOADING, HostState.FAILED)
        self._expected = frozenset(h.version for h in hosts if h.state in coming)
        self._changed.set()
        self._changed = asyncio.Event()

    def find(self, version: VersionName, tried: Collection[Replica] = ()) -> Replica | None:
        """A replica for the next attempt: one that was not tried and does not rest, if any.

        Rather than none, a resting or a tried one.
        """
        replicas = self._by_version.get(version)
        if not replicas:
            return None
        if len(replicas) == 1:
            return replicas[0]
        fresh = [r for r in replicas if r not in tried] if tried else replicas
        now = self._clock()
        awake = [r for r in fresh if r.rests_until <= now]
        return pick(awake or fresh or replicas, self._chance, now)

    def serves(self, version: VersionName) -> bool:
        """Tells whether any replica serves the version."""
        return version in self._by_version

    def serving(self) -> frozenset[VersionName]:
        """The versions that have a replica."""
        return frozenset(self._by_version)

    def of(self, version: VersionName) -> tuple[Replica, ...]:
        """The replicas of a version."""
        return tuple(self._by_version.get(version, ()))

    def all(self) -> tuple[Replica, ...]:
        """Every replica."""
        return tuple(self._by_host.values())

    def expects(self, version: VersionName) -> bool:
        """Tells whether a host of the version is on its way."""
        return version in self._expected

    async def changed(self, timeout: float) -> None:
        """Returns at the next update, or after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return

    async def close(self) -> None:
        """Closes every endpoint."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await asyncio.gather(*(r.endpoint.close() for r in self._by_host.values()))
        self._by_host.clear()
        self._by_version = {}

    def _retire(self, replica: Replica) -> None:
        """Closes the endpoint once its calls have ended; the host drains meanwhile."""

        async def drain() -> None:
            while replica.load.pending:
                await asyncio.sleep(0.05)
            await replica.endpoint.close()

        _log.info("replica %s of %s retires", replica.host, replica.version)
        self._went(replica)
        task = asyncio.create_task(drain())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
