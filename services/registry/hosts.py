"""The leases of hosts: what supervisors report, for as long as they report it.

Kept in memory, and in Redis with a time to live, so that a registry that starts again knows
at once who serves. A supervisor that is known and was not heard yet has a grace: a registry
that was away must not tell the gateways that nobody serves.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from modelyard.catalog import Host
from modelyard.errors import StoreUnavailable

_log = structlog.get_logger(__name__)

# Supervisors report every two seconds: after this long, one that is alive was heard.
GRACE = 3.0
# How often what other registries were told is read, and leases are seen to end, in seconds.
REFRESH = 0.5


@dataclass(frozen=True, slots=True)
class Report:
    """What one supervisor reported last, and until when it holds, on the clock."""

    hosts: tuple[Host, ...]
    until: float


class LeaseStore(Protocol):
    """Keeps reports beyond this process. Every method raises StoreUnavailable."""

    async def put(self, supervisor: str, hosts: tuple[Host, ...], ttl: float) -> None:
        """Keeps a report for `ttl` seconds, and the supervisor's name."""
        ...

    async def forget(self, supervisor: str) -> None:
        """Forgets a supervisor that has gone."""
        ...

    async def all(self) -> dict[str, tuple[tuple[Host, ...], float] | None]:
        """By supervisor: its hosts and the seconds left; None where its report has ended."""
        ...


class Leases:
    """Who serves, now.

    Args:
        store: Keeps the reports.
        clock: Seconds, monotonic.
    """

    def __init__(self, store: LeaseStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._reports: dict[str, Report] = {}
        self._own: set[str] = set()
        self._awaited: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._hosts: tuple[Host, ...] = ()
        self._closed = False

    def close(self) -> None:
        """Ends every watch, and with it what this process says of who serves."""
        self._closed = True
        self._changed.set()

    @property
    def hosts(self) -> tuple[Host, ...]:
        """By version and id."""
        return self._hosts

    async def open(self) -> None:
        """Reads what was reported before this process began."""
        end = self._clock() + GRACE
        for supervisor, held in (await self._store.all()).items():
            if held is None:
                self._awaited[supervisor] = end
            else:
                self._reports[supervisor] = Report(held[0], end + held[1])
        self._settle()

    @property
    def settled(self) -> bool:
        """False while a known supervisor has its grace."""
        return not self._awaited

    async def report(self, supervisor: str, hosts: tuple[Host, ...], ttl: float) -> None:
        """Takes a report; it is kept in memory while the store is away."""
        self._reports[supervisor] = Report(hosts, self._clock() + ttl)
        self._own.add(supervisor)
        self._awaited.pop(supervisor, None)
        self._settle()
        try:
            await self._store.put(supervisor, hosts, ttl)
        except StoreUnavailable:
            _log.debug("a report is kept in memory only", supervisor=supervisor)

    async def run(self) -> None:
        """Ends leases, and takes in what other registries were told; never returns."""
        while True:
            await asyncio.sleep(REFRESH)
            try:
                await self._refresh()
            except StoreUnavailable:
                # The store's absence ends no lease that is reported here.
                self._expire(forget=set())

    async def _refresh(self) -> None:
        held = await self._store.all()
        now = self._clock()
        for supervisor, kept in held.items():
            if kept is None:
                continue
            report = Report(kept[0], now + kept[1])
            if supervisor in self._own:
                # What came here is the truth while the store is behind. One that holds longer
                # was told to another registry since: the supervisor went over to it.
                if report.until <= self._reports[supervisor].until:
                    continue
                self._own.remove(supervisor)
            self._reports[supervisor] = report
            self._awaited.pop(supervisor, None)
        gone = {s for s, kept in held.items() if kept is None and s not in self._reports}
        self._expire(forget=gone - self._awaited.keys())
        for supervisor in gone - self._awaited.keys():
            await self._store.forget(supervisor)

    def _expire(self, forget: set[str]) -> None:
        now = self._clock()
        for supervisor in [s for s, end in self._awaited.items() if end <= now]:
            del self._awaited[supervisor]
        for supervisor in [s for s, report in self._reports.items() if report.until <= now]:
            _log.warning("a supervisor is silent; its hosts are dropped", supervisor=supervisor)
            del self._reports[supervisor]
            self._own.discard(supervisor)
        self._own -= forget
        self._settle()

    def _settle(self) -> None:
        hosts = sorted(
            (host for report in self._reports.values() for host in report.hosts),
            key=lambda host: (host.version, host.id),
        )
        if tuple(hosts) != self._hosts:
            self._hosts = tuple(hosts)
            self._changed.set()
            self._changed = asyncio.Event()

    async def changed(self, timeout: float) -> None:
        """Returns at the next change, or after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return

    async def watch(self, quiet: float) -> AsyncIterator[tuple[Host, ...]]:
        """The hosts now, at each change, and after `quiet` seconds without one; until `close`."""
        while not (self.settled or self._closed):
            await asyncio.sleep(0.05)
        while not self._closed:
            told = self._hosts
            yield told
            if told == self._hosts:
                await self.changed(quiet)


class RedisLeases:
    """Implements LeaseStore on Redis.

    Args:
        redis: A client that answers bytes.
        encode: A report's hosts, to bytes.
        decode: And back.
        guard: Turns Redis's errors into StoreUnavailable.
    """

    def __init__(
        self,
        redis: Any,
        encode: Callable[[tuple[Host, ...]], bytes],
        decode: Callable[[bytes], tuple[Host, ...]],
        guard: Callable[[], Any],
    ) -> None:
        self._redis = redis
        self._encode = encode
        self._decode = decode
        self._guard = guard

    async def put(self, supervisor: str, hosts: tuple[Host, ...], ttl: float) -> None:
        """See `LeaseStore.put`."""
        with self._guard():
            await self._redis.sadd(_SUPERVISORS, supervisor)
            await self._redis.set(
                _PREFIX + supervisor, self._encode(hosts), px=max(int(ttl * 1000), 1)
            )

    async def forget(self, supervisor: str) -> None:
        """See `LeaseStore.forget`."""
        with self._guard():
            await self._redis.srem(_SUPERVISORS, supervisor)

    async def all(self) -> dict[str, tuple[tuple[Host, ...], float] | None]:
        """See `LeaseStore.all`."""
        found: dict[str, tuple[tuple[Host, ...], float] | None] = {}
        with self._guard():
            for name in await self._redis.smembers(_SUPERVISORS):
                key = _PREFIX + name.decode()
                held, left = await self._redis.get(key), await self._redis.pttl(key)
                alive = held is not None and left > 0
                found[name.decode()] = (self._decode(held), left / 1000) if alive else None
        return found


_SUPERVISORS = "{modelyard}:supervisors"
_PREFIX = "{modelyard}:hosts:"
