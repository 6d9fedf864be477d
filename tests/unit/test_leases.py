"""Leases of hosts: reported, renewed, ended, and taken in from other registries."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from modelyard.catalog import Host, HostState
from modelyard.errors import StoreUnavailable
from modelyard.names import VersionName
from services.registry.hosts import GRACE, REFRESH, Leases
from tests.kit import virtual_time

TTL = 6.0
# A little more than a turn of the refresh, so that what a moment changes has been seen.
SEEN = REFRESH * 1.5


class Store:
    """What Redis keeps, on the same clock; away when told."""

    def __init__(self) -> None:
        self.away = False
        self.names: set[str] = set()
        self._held: dict[str, tuple[tuple[Host, ...], float]] = {}

    async def put(self, supervisor: str, hosts: tuple[Host, ...], ttl: float) -> None:
        self._check()
        self.names.add(supervisor)
        self._held[supervisor] = (hosts, _now() + ttl)

    async def forget(self, supervisor: str) -> None:
        self._check()
        self.names.discard(supervisor)

    async def all(self) -> dict[str, tuple[tuple[Host, ...], float] | None]:
        self._check()
        found: dict[str, tuple[tuple[Host, ...], float] | None] = {}
        for name in self.names:
            hosts, until = self._held[name]
            found[name] = (hosts, until - _now()) if until > _now() else None
        return found

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("away")


class Running:
    """A registry's leases, at work from `async with` on."""

    def __init__(self, store: Store) -> None:
        self.leases = Leases(store, asyncio.get_running_loop().time)
        # What it told, each time that changed.
        self.told: list[tuple[str, ...]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Running":
        await self.leases.open()
        self._tasks = [asyncio.create_task(self.leases.run()), asyncio.create_task(self._listen())]
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self) -> None:
        async for hosts in self.leases.watch(quiet=1.0):
            ids = tuple(host.id for host in hosts)
            if self.told[-1:] != [ids]:
                self.told.append(ids)

    @property
    def ids(self) -> list[str]:
        return [host.id for host in self.leases.hosts]


def _now() -> float:
    return asyncio.get_running_loop().time()


def _host(identity: str, state: HostState = HostState.SERVING, number: int = 1) -> Host:
    return Host(id=identity, version=VersionName("digits", number), state=state)


def on_virtual_time(
    test: Callable[..., Coroutine[Any, Any, None]],
) -> Callable[..., None]:
    """The test, run on a loop whose clock jumps."""

    # Nothing of the wrapped signature may be seen, or pytest would look at a coroutine.
    def run() -> None:
        virtual_time.run(test())

    run.__name__ = test.__name__
    return run


@on_virtual_time
async def test_a_report_is_told_at_once_and_kept() -> None:
    store = Store()
    async with Running(store) as registry:
        assert registry.ids == []
        await registry.leases.report("s", (_host("a"),), TTL)
        assert registry.leases.hosts == (_host("a"),)
        await asyncio.sleep(0)
        assert registry.told == [(), ("a",)]
        assert await store.all() == {"s": ((_host("a"),), TTL)}
        assert _now() == 0.0


@on_virtual_time
async def test_a_report_replaces_the_supervisors_last_and_no_other() -> None:
    async with Running(Store()) as registry:
        await registry.leases.report("s", (_host("a"), _host("b")), TTL)
        await registry.leases.report("t", (_host("c"),), TTL)
        await registry.leases.report("s", (_host("b", HostState.DRAINING),), TTL)
        assert registry.leases.hosts == (_host("b", HostState.DRAINING), _host("c"))
        await registry.leases.report("s", (), TTL)
        assert registry.ids == ["c"]


@on_virtual_time
async def test_hosts_stand_by_version_and_id() -> None:
    async with Running(Store()) as registry:
        await registry.leases.report("s", (_host("a", number=2), _host("d")), TTL)
        await registry.leases.report("t", (_host("c"), _host("b", number=2)), TTL)
        assert registry.ids == ["c", "d", "a", "b"]


@on_virtual_time
async def test_a_lease_that_is_not_renewed_ends_and_is_told() -> None:
    store = Store()
    async with Running(store) as registry:
        await registry.leases.report("s", (_host("a"),), TTL)
        await registry.leases.report("t", (_host("b"),), 2 * TTL)
        await asyncio.sleep(TTL - 0.001)
        assert registry.ids == ["a", "b"]
        await asyncio.sleep(SEEN)
        assert registry.ids == ["b"]
        assert registry.told == [(), ("a", "b"), ("b",)]
        # Nor is it waited for ever: the store forgets its name.
        await asyncio.sleep(SEEN)
        assert store.names == {"t"}


@on_virtual_time
async def test_a_lease_that_is_renewed_goes_on() -> None:
    async with Running(Store()) as registry:
        for _ in range(10):
            await registry.leases.report("s", (_host("a"),), TTL)
            await asyncio.sleep(TTL - 0.001)
            assert registry.ids == ["a"]
        # It was told once: a renewal is no change.
        assert registry.told == [(), ("a",)]
        await asyncio.sleep(SEEN)
        assert registry.ids == []


@on_virtual_time
async def test_a_renewal_may_shorten_a_lease() -> None:
    async with Running(Store()) as registry:
        await registry.leases.report("s", (_host("a"),), 100 * TTL)
        await registry.leases.report("s", (_host("a"),), TTL)
        await asyncio.sleep(TTL + SEEN)
        assert registry.ids == []


@on_virtual_time
async def test_a_late_report_revives_the_host() -> None:
    store = Store()
    async with Running(store) as registry:
        await registry.leases.report("s", (_host("a"),), TTL)
        await asyncio.sleep(10 * TTL)
        assert (registry.ids, store.names) == ([], set())
        await registry.leases.report("s", (_host("a"),), TTL)
        assert (registry.ids, store.names) == (["a"], {"s"})
        await asyncio.sleep(TTL - 0.001)
        assert registry.ids == ["a"]
        assert registry.told == [(), ("a",), (), ("a",)]


@on_virtual_time
async def test_reports_are_taken_and_leases_end_while_the_store_is_away() -> None:
    store = Store()
    async with Running(store) as registry:
        store.away = True
        await registry.leases.report("s", (_host("a"),), TTL)
        await registry.leases.report("t", (_host("b"),), 2 * TTL)
        assert registry.ids == ["a", "b"]
        await asyncio.sleep(TTL + SEEN)
        assert registry.ids == ["b"]
        # The next report of a supervisor brings the store up to date.
        store.away = False
        await registry.leases.report("t", (_host("b"),), TTL)
        assert store.names == {"t"}


@on_virtual_time
async def test_a_registry_that_starts_again_knows_who_serves() -> None:
    store = Store()
    async with Running(store) as first:
        await first.leases.report("s", (_host("a"),), TTL)
    async with Running(store) as second:
        assert second.leases.settled
        assert second.ids == ["a"]
        # A supervisor reports every two seconds; within the grace it must have done so anew.
        await second.leases.report("s", (_host("a"),), TTL)
        await asyncio.sleep(TTL - 0.001)
        assert second.told == [("a",)]


@on_virtual_time
async def test_what_was_reported_before_ends_unless_it_is_reported_again() -> None:
    store = Store()
    async with Running(store) as first:
        await first.leases.report("s", (_host("a"),), TTL)
    async with Running(store) as second:
        await asyncio.sleep(TTL + GRACE + SEEN)
        assert second.ids == []


async def _ended_in_the_store(store: Store) -> None:
    """Leaves a supervisor's name in the store, whose report has ended."""
    await store.put("s", (_host("a"),), TTL)
    await asyncio.sleep(TTL)


@on_virtual_time
async def test_a_watch_waits_for_a_supervisor_that_is_known_and_was_not_heard() -> None:
    store = Store()
    await _ended_in_the_store(store)
    async with Running(store) as registry:
        assert not registry.leases.settled
        await asyncio.sleep(GRACE - 0.1)
        assert registry.told == []
        await registry.leases.report("s", (_host("a"),), TTL)
        assert registry.leases.settled
        await asyncio.sleep(0.1)
        # Nobody was ever told that no host serves.
        assert registry.told == [("a",)]


@on_virtual_time
async def test_a_supervisor_that_has_gone_is_waited_for_no_longer_than_the_grace() -> None:
    store = Store()
    await _ended_in_the_store(store)
    async with Running(store) as registry:
        await asyncio.sleep(GRACE + SEEN)
        assert registry.leases.settled
        assert registry.told == [()]
        await asyncio.sleep(SEEN)
        assert store.names == set()


@on_virtual_time
async def test_what_another_registry_was_told_is_taken_in() -> None:
    store = Store()
    async with Running(store) as one, Running(store) as other:
        await one.leases.report("s", (_host("a"),), TTL)
        assert other.ids == []
        await asyncio.sleep(SEEN)
        assert other.ids == ["a"]
        await one.leases.report("s", (_host("b"),), TTL)
        await asyncio.sleep(SEEN)
        assert other.ids == ["b"]
        await asyncio.sleep(TTL)
        assert (one.ids, other.ids) == ([], [])


@on_virtual_time
async def test_a_supervisor_may_go_over_to_another_registry() -> None:
    store = Store()
    async with Running(store) as one, Running(store) as other:
        await one.leases.report("s", (_host("a"),), TTL)
        for _ in range(10):
            await other.leases.report("s", (_host("a"),), TTL)
            await asyncio.sleep(TTL / 3)
        assert one.told == [(), ("a",)]


@on_virtual_time
async def test_what_a_supervisor_reports_elsewhere_is_told_before_its_old_report_ends() -> None:
    store = Store()
    async with Running(store) as one, Running(store) as other:
        await one.leases.report("s", (_host("a"),), TTL)
        await asyncio.sleep(1.0)
        await other.leases.report("s", (_host("b"),), TTL)
        await asyncio.sleep(SEEN)
        assert (one.ids, other.ids) == (["b"], ["b"])
        # And it may come back.
        await one.leases.report("s", (_host("c"),), TTL)
        await asyncio.sleep(SEEN)
        assert (one.ids, other.ids) == (["c"], ["c"])
        assert one.told == [(), ("a",), ("b",), ("c",)]
        await asyncio.sleep(TTL)
        assert (one.ids, other.ids) == ([], [])


@on_virtual_time
async def test_a_store_that_is_behind_changes_no_report_that_came_here() -> None:
    store = Store()
    async with Running(store) as registry:
        await registry.leases.report("s", (_host("a"),), TTL)
        store.away = True
        await asyncio.sleep(1.0)
        await registry.leases.report("s", (_host("b"),), TTL)
        store.away = False
        await asyncio.sleep(TTL - 0.001)
        assert registry.told == [(), ("a",), ("b",)]


@on_virtual_time
async def test_a_quiet_watch_repeats_the_hosts() -> None:
    leases = Leases(Store(), asyncio.get_running_loop().time)
    await leases.open()
    await leases.report("s", (_host("a"),), TTL)
    watch = leases.watch(quiet=2.0)
    at = []
    async for hosts in watch:
        assert hosts == (_host("a"),)
        at.append(_now())
        if len(at) == 3:
            break
    assert at == [0.0, 2.0, 4.0]


@on_virtual_time
async def test_close_ends_a_watch_and_drops_no_host() -> None:
    async with Running(Store()) as registry:
        await registry.leases.report("s", (_host("a"),), TTL)
        await asyncio.sleep(0)
        registry.leases.close()
        _, listening = registry._tasks
        await listening
        assert registry.told[-1] == ("a",)
        assert _now() == 0.0


@on_virtual_time
async def test_close_ends_a_watch_that_still_waits_for_a_supervisor() -> None:
    store = Store()
    await _ended_in_the_store(store)
    leases = Leases(store, asyncio.get_running_loop().time)
    await leases.open()
    leases.close()
    # As in a drain, nothing else is at work that would end the waiting.
    async with asyncio.timeout(10 * GRACE):
        assert [hosts async for hosts in leases.watch(quiet=1.0)] == []
