"""Following the registry over streams that break, lie or fall silent, on virtual time.

Past 300 lines: all of it breaks the one channel in memory that stands at the top.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any

import grpc
import pytest

from modelyard.catalog import Catalog, Change, Host, HostState, Route, RouteReplaced
from modelyard.catalog.convert import change_to, host_to, snapshot_to
from modelyard.catalog.follow import SILENCE, CatalogFollower, HostsFollower
from modelyard.names import VersionName
from modelyard.registry.v1 import host_service_pb2, registry_service_pb2
from tests.kit import virtual_time

# A registry's sign of life comes so often, in seconds.
HEARTBEAT = 2.0
# The longest that a follower waits before it tries again, in seconds.
LONGEST_WAIT = 1.0


class Channel:
    """A channel whose one stream plays what is written down for each time that it is opened.

    Args:
        plays: For each stream, its steps: seconds to wait, a response, or an error to raise.
            After its last step a stream ends; after the last stream, each is silent.
    """

    def __init__(self, *plays: Sequence[Any]) -> None:
        self._plays = list(plays)
        self.requests: list[Any] = []
        # When each stream was opened.
        self.opened: list[float] = []
        self.calls: list[Call] = []

    def unary_stream(self, method: str, **_: Any) -> Callable[[Any], "Call"]:
        return self._open

    def unary_unary(self, method: str, **_: Any) -> None:
        return None

    def _open(self, request: Any) -> "Call":
        self.requests.append(request)
        self.opened.append(_now())
        self.calls.append(Call(self._plays.pop(0) if self._plays else [float("inf")]))
        return self.calls[-1]

    @property
    def revisions(self) -> list[int]:
        """From which each stream was asked for."""
        return [request.revision for request in self.requests]


class Call:
    """One stream."""

    def __init__(self, steps: Sequence[Any]) -> None:
        self._steps = list(steps)
        self.cancelled = False

    async def read(self) -> Any:
        while self._steps:
            step = self._steps.pop(0)
            if step == float("inf"):
                await asyncio.Event().wait()
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, Exception):
                raise step
            else:
                return step
        return grpc.aio.EOF

    def cancel(self) -> None:
        self.cancelled = True


def on_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test, run on a loop whose clock jumps; it says how long it lasts, and costs nothing."""

    # Nothing of the wrapped signature may be seen, or pytest would look at a coroutine.
    def run() -> None:
        virtual_time.run(test())

    run.__name__ = test.__name__
    return run


def _now() -> float:
    return asyncio.get_running_loop().time()


def _error(code: grpc.StatusCode, details: str = "why") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


broken = partial(_error, grpc.StatusCode.UNAVAILABLE)
beyond = partial(_error, grpc.StatusCode.OUT_OF_RANGE)


def _change(revision: int, model: str = "digits") -> Any:
    change = Change(revision, datetime(2024, 1, 1, tzinfo=UTC), RouteReplaced(Route(model)))
    return registry_service_pb2.WatchResponse(change=change_to(change))


def _snapshot(revision: int, *models: str) -> Any:
    catalog = Catalog(revision, routes={model: Route(model) for model in models})
    return registry_service_pb2.WatchResponse(snapshot=snapshot_to(catalog))


def _heartbeat(revision: int) -> Any:
    return registry_service_pb2.WatchResponse(heartbeat_revision=revision)


class Following:
    """A follower at work; keeps each catalogue that it told."""

    def __init__(self, channel: Channel, initial: Catalog | None = None) -> None:
        self.follower = CatalogFollower(channel, initial)
        self.told: list[tuple[int, list[str]]] = []
        self.follower.on_change(lambda c: self.told.append((c.revision, sorted(c.routes))))

    async def __aenter__(self) -> "Following":
        self.follower.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.follower.stop()

    @property
    def age(self) -> float | None:
        """For how long nothing was heard."""
        heard_at = self.follower.heard_at
        return None if heard_at is None else _now() - heard_at


@on_virtual_time
async def test_a_snapshot_and_then_every_change() -> None:
    channel = Channel([_snapshot(3, "a"), 1.0, _change(4, "b"), 1.0, _change(5, "c"), SILENCE / 2])
    async with Following(channel) as following:
        await asyncio.sleep(2.5)
        assert following.told == [(0, []), (3, ["a"]), (4, ["a", "b"]), (5, ["a", "b", "c"])]
        assert following.follower.revision == 5
    assert channel.revisions == [0]


@on_virtual_time
async def test_a_broken_stream_goes_on_from_its_revision() -> None:
    channel = Channel(
        [_snapshot(3, "a"), _change(4, "b"), broken()],
        [_change(5, "c"), broken()],
        [_heartbeat(5), 1.0, _change(6, "d"), float("inf")],
    )
    async with Following(channel) as following:
        await asyncio.sleep(3.0)
        # Each once, in its order; and no moment without what was known.
        assert [revision for revision, _ in following.told] == [0, 3, 4, 5, 6]
        assert following.told[-1][1] == ["a", "b", "c", "d"]
    assert channel.revisions == [0, 4, 5]


@on_virtual_time
async def test_a_stream_that_ends_goes_on_from_its_revision() -> None:
    channel = Channel([_snapshot(3, "a")], [_change(4, "b")], [float("inf")])
    async with Following(channel) as following:
        await asyncio.sleep(1.0)
        assert following.told == [(0, []), (3, ["a"]), (4, ["a", "b"])]
    assert channel.revisions == [0, 3, 4]


@on_virtual_time
async def test_a_revision_beyond_the_registrys_starts_over() -> None:
    channel = Channel(
        [_snapshot(9, "a"), broken()],
        [beyond()],
        [_snapshot(2, "b"), _change(3, "c"), broken()],
        [float("inf")],
    )
    async with Following(channel) as following:
        await asyncio.sleep(2.0)
        # The new registry's view replaces the old one's, though its revision is lower.
        assert following.told == [(0, []), (9, ["a"]), (2, ["b"]), (3, ["b", "c"])]
    assert channel.revisions == [0, 9, 0, 3]


@on_virtual_time
async def test_the_last_view_stays_until_the_new_one_is_there() -> None:
    channel = Channel([_snapshot(9, "a"), broken()], [beyond()], [float("inf")])
    async with Following(channel) as following:
        await asyncio.sleep(2.0)
        assert channel.revisions == [0, 9, 0]
        assert following.follower.revision == 9
        assert sorted(following.follower.catalog.routes) == ["a"]
        # It is as old as it was, and it was heard.
        assert following.age == 2.0


@on_virtual_time
async def test_a_new_registry_is_asked_for_all_until_all_was_heard() -> None:
    channel = Channel(
        [_snapshot(9, "a"), broken()],
        [beyond()],
        [_heartbeat(2), broken()],
        [_snapshot(2, "b"), float("inf")],
    )
    async with Following(channel) as following:
        await asyncio.sleep(3.0)
        assert following.told == [(0, []), (9, ["a"]), (2, ["b"])]
    assert channel.revisions == [0, 9, 0, 0]


@on_virtual_time
async def test_a_saved_view_is_told_first_and_replaced_when_the_registry_is_heard() -> None:
    saved = Catalog(7, routes={"saved": Route("saved")})
    channel = Channel([broken()], [_snapshot(5, "a"), float("inf")])
    async with Following(channel, saved) as following:
        assert following.told == [(7, ["saved"])]
        await asyncio.sleep(1.0)
        assert following.told == [(7, ["saved"]), (5, ["a"])]
    # Whose registry it was saved from nobody knows.
    assert channel.revisions == [0, 0]


@pytest.mark.parametrize("revision", [3, 5], ids=["twice", "missing"])
def test_a_change_that_does_not_follow_is_asked_for_again(revision: int) -> None:
    async def main() -> None:
        channel = Channel(
            [_snapshot(3, "a"), _change(revision, "wrong")],
            [_change(4, "b"), float("inf")],
        )
        async with Following(channel) as following:
            await asyncio.sleep(1.0)
            assert following.told == [(0, []), (3, ["a"]), (4, ["a", "b"])]
        assert channel.revisions == [0, 3]

    virtual_time.run(main())


@on_virtual_time
async def test_a_change_of_an_unknown_kind_ends_no_following() -> None:
    unknown = registry_service_pb2.WatchResponse(change={"revision": 4})
    channel = Channel([_snapshot(3, "a"), unknown], [unknown], [_change(4, "b"), float("inf")])
    async with Following(channel) as following:
        await asyncio.sleep(1.0)
        assert following.follower.revision == 4
    assert channel.revisions == [0, 3, 3]


@on_virtual_time
async def test_tells_how_stale_it_is() -> None:
    beats = [step for _ in range(5) for step in (HEARTBEAT, _heartbeat(3))]
    channel = Channel([1.0, _snapshot(3, "a"), *beats, broken()], *([broken()] for _ in range(99)))
    async with Following(channel) as following:
        await asyncio.sleep(0.5)
        assert following.age is None
        await asyncio.sleep(1.5)
        assert following.age == 1.0
        # A sign of life without a change makes it fresh, and changes nothing.
        await asyncio.sleep(9.5)
        assert following.age == 0.5
        # From then on the registry is away, and each failed try leaves it as stale as it is.
        await asyncio.sleep(30.0)
        assert following.age == 30.5
        assert following.told == [(0, []), (3, ["a"])]
        assert len(channel.opened) > 10


@on_virtual_time
async def test_a_silent_stream_is_given_up() -> None:
    channel = Channel([_snapshot(3, "a"), float("inf")], [_change(4, "b"), float("inf")])
    async with Following(channel) as following:
        await asyncio.sleep(SILENCE - 0.001)
        assert not channel.calls[0].cancelled
        await asyncio.sleep(LONGEST_WAIT)
        assert channel.calls[0].cancelled
        assert following.follower.revision == 4
    assert channel.revisions == [0, 3]
    assert channel.calls[1].cancelled


@on_virtual_time
async def test_signs_of_life_keep_a_stream() -> None:
    beats = [step for _ in range(100) for step in (SILENCE - 0.001, _heartbeat(3))]
    channel = Channel([_snapshot(3, "a"), *beats])
    async with Following(channel):
        await asyncio.sleep(90 * SILENCE)
    assert channel.revisions == [0]


@on_virtual_time
async def test_tries_grow_apart_up_to_a_second_and_go_on_for_ever() -> None:
    channel = Channel(*([broken()] for _ in range(5000)))
    async with Following(channel):
        await asyncio.sleep(600.0)
    waits = [after - before for before, after in pairwise(channel.opened)]
    for failures, wait in enumerate(waits):
        whole = min(0.05 * 2**failures, LONGEST_WAIT)
        assert whole / 2 - 1e-9 <= wait <= whole + 1e-9
    # Tries that never ceased: none is further from the end than the longest wait.
    assert 600.0 - channel.opened[-1] <= LONGEST_WAIT
    # Many who failed together come back apart.
    assert len({round(wait, 6) for wait in waits[10:]}) > 100


@on_virtual_time
async def test_what_is_heard_makes_the_next_wait_short_again() -> None:
    channel = Channel(
        *([broken()] for _ in range(20)), [_snapshot(3, "a"), broken()], [float("inf")]
    )
    async with Following(channel):
        await asyncio.sleep(30.0)
    assert channel.opened[20] - channel.opened[19] >= LONGEST_WAIT / 2 - 1e-9
    assert channel.opened[21] - channel.opened[20] <= 0.05 + 1e-9


@on_virtual_time
async def test_streams_that_end_at_once_are_not_opened_in_a_hurry() -> None:
    channel = Channel(*([] for _ in range(5000)))
    async with Following(channel):
        await asyncio.sleep(60.0)
    assert len(channel.opened) < 60 / (LONGEST_WAIT / 2) + 10


def test_a_loss_is_logged_once_and_so_is_the_return(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "modelyard.catalog.follow")

    async def main() -> None:
        channel = Channel(
            [_snapshot(3, "a"), broken("gone")],
            *([broken("still gone")] for _ in range(9)),
            [_heartbeat(3), float("inf")],
        )
        async with Following(channel):
            # After all failures, and before the last stream has been silent for too long.
            await asyncio.sleep(8.0)

    virtual_time.run(main())
    assert caplog.messages == [
        "registry: lost (gone); going on with the last view",
        "registry: heard again",
    ]


@on_virtual_time
async def test_wait_for_ends_when_the_revision_is_there_or_the_time_is_over() -> None:
    channel = Channel([_snapshot(3, "a"), 2.0, _change(4, "b"), float("inf")])
    async with Following(channel) as following:
        wait_for = following.follower.wait_for
        assert await wait_for(4, timeout=3.0)
        assert _now() == 2.0
        assert await wait_for(3, timeout=0.0)
        assert not await wait_for(5, timeout=1.5)
        assert _now() == 3.5


@on_virtual_time
async def test_wait_heard_ends_when_the_registry_is_heard_or_the_time_is_over() -> None:
    channel = Channel([2.0, _snapshot(0), float("inf")])
    async with Following(channel) as following:
        wait_heard = following.follower.wait_heard
        assert not await wait_heard(1.0)
        # An empty catalogue is heard as well.
        assert await wait_heard(5.0)
        assert _now() == 2.0


@on_virtual_time
async def test_stop_ends_the_stream_and_keeps_the_view() -> None:
    channel = Channel([_snapshot(3, "a"), float("inf")])
    async with Following(channel) as following:
        await asyncio.sleep(1.0)
    assert channel.calls[0].cancelled
    assert following.follower.revision == 3


@on_virtual_time
async def test_a_follower_that_never_began_can_be_stopped() -> None:
    await CatalogFollower(Channel()).stop()


def _hosts(*ids: str) -> Any:
    version = VersionName("digits", 1)
    hosts = (host_to(Host(id=i, version=version, state=HostState.SERVING)) for i in ids)
    return host_service_pb2.WatchHostsResponse(hosts=hosts)


@on_virtual_time
async def test_hosts_are_waited_for_until_they_are_told_or_the_time_is_over() -> None:
    follower = HostsFollower(Channel([2.0, _hosts(), float("inf")]))
    follower.start()
    assert not await follower.wait_heard(1.0)
    # That there is none is told as well.
    assert await follower.wait_heard(5.0)
    assert _now() == 2.0
    await follower.stop()


@on_virtual_time
async def test_hosts_are_told_when_they_change_and_stay_while_the_registry_is_away() -> None:
    beats = [step for _ in range(3) for step in (HEARTBEAT, _hosts("a", "b"))]
    channel = Channel(
        [_hosts("a"), 1.0, _hosts("a", "b"), *beats, broken()],
        *([broken()] for _ in range(20)),
        [_hosts("b"), float("inf")],
    )
    follower = HostsFollower(channel)
    told: list[list[str]] = []
    follower.on_change(lambda hosts: told.append([host.id for host in hosts]))
    follower.start()
    await asyncio.sleep(7.5)
    assert told == [[], ["a"], ["a", "b"]]
    assert follower.heard_at == 7.0
    await asyncio.sleep(30.0)
    assert told == [[], ["a"], ["a", "b"], ["b"]]
    await follower.stop()
    assert channel.calls[-1].cancelled
