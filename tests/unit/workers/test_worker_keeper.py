"""A worker is kept: started again when it ends or hangs, given up when it never serves."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import GatewaySettings
from gateway.workers.group import Group
from gateway.workers.keeper import Keeper
from modelyard.errors import FailedPrecondition
from modelyard.server import Server

# Longer than grpc takes to try a connection again, which it does after a second at most.
HUNG = 3.0


class Worker:
    """What a process would do, in this one."""

    def __init__(self, *ends: Any) -> None:
        self.ends = list(ends)
        self.runs = 0
        self.hangs = False
        # At its start: before it listens, or once it does.
        self.stops: str | None = None
        self.killed = 0
        self.dies = asyncio.Event()

    async def __call__(self, settings: GatewaySettings, ending: asyncio.Event, group: Group) -> int:
        self.runs += 1
        if self.ends:
            end = self.ends.pop(0)
            if isinstance(end, Exception):
                raise end
            return int(end)
        if self.stops is not None:
            await self._stop(settings.listen.removeprefix("unix:"))
        self.hangs, self.dies = False, asyncio.Event()
        server = Server(settings, ())
        inner = server.health.Check

        async def check(request: Any, context: Any) -> Any:
            while self.hangs:
                await asyncio.sleep(0.01)
            return await inner(request, context)

        server.health.Check = check  # type: ignore[method-assign]
        await server.start()
        await server.serving()
        try:
            waits = [asyncio.create_task(event.wait()) for event in (ending, self.dies)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return 0
        except asyncio.CancelledError:
            self.killed += 1
            raise
        finally:
            for wait in waits:
                wait.cancel()
            self.hangs = False
            await server.stop(at_once=True)

    async def _stop(self, path: str) -> None:
        """As SIGSTOP: the kernel takes connections, where it was listened, and nobody else does."""
        when, self.stops = self.stops, None
        with socket.socket(socket.AF_UNIX) as listener:
            if when == "listening":
                listener.bind(path)
                listener.listen(1)
            try:
                await asyncio.Event().wait()
            finally:
                self.killed += 1


def keeper_of(
    worker: Worker, folder: Path, told: list[bool], hung: float = 10.0, start: float = 60.0
) -> Keeper:
    group = Group(0, (f"unix:{folder}/s",))
    settings = GatewaySettings.model_validate(
        {"registry": "unix:/r", "listen": group.sockets[0], "first_view": 0.0}
    )
    keeper = Keeper(worker, settings, group, lambda: told.append(keeper.serves), hung, start)
    return keeper


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_ends_is_started_again(tmp_path: Path) -> None:
    worker, told = Worker(1), list[bool]()
    keeper = keeper_of(worker, tmp_path, told)
    keeping = asyncio.create_task(keeper.keep())
    await until(lambda: keeper.serves)
    assert (worker.runs, told) == (2, [True])
    # That it served once makes what comes later no reason to give up.
    worker.ends = [FailedPrecondition("the address is taken"), 1, 1, 1]
    worker.dies.set()
    await until(lambda: told[-1:] == [False])
    await until(lambda: keeper.serves)
    assert worker.runs == 7
    keeper.ending.set()
    await keeping
    assert worker.killed == 0
    await keeper.close()


@pytest.mark.parametrize(
    ("ends", "runs", "said"),
    [
        ((FailedPrecondition("no such file"),), 1, "no such file"),
        ((3, 3, 3), 3, "worker 0 does not stay up: code 3"),
    ],
)
async def test_what_never_serves_is_given_up(tmp_path: Path, ends, runs, said) -> None:
    worker = Worker(*ends)
    keeper = keeper_of(worker, tmp_path, [])
    with pytest.raises(FailedPrecondition, match=said):
        await keeper.keep()
    assert worker.runs == runs
    await keeper.close()


async def test_what_hangs_is_ended_and_started_again(tmp_path: Path) -> None:
    worker = Worker()
    keeper = keeper_of(worker, tmp_path, [], hung=HUNG)
    keeping = asyncio.create_task(keeper.keep())
    await until(lambda: keeper.serves)
    worker.hangs = True
    await until(lambda: worker.runs == 2)
    assert worker.killed == 1
    await until(lambda: keeper.serves)
    keeper.ending.set()
    await keeping
    await keeper.close()


@pytest.mark.parametrize(("when", "start"), [("listening", 60.0), ("starting", 0.5)])
async def test_what_hangs_before_it_was_heard_is_ended_too(
    tmp_path: Path, when: str, start: float
) -> None:
    worker = Worker()
    worker.stops = when
    keeper = keeper_of(worker, tmp_path, [], hung=HUNG, start=start)
    keeping = asyncio.create_task(keeper.keep())
    await until(lambda: worker.killed)
    await until(lambda: keeper.serves)
    assert worker.runs > 1
    keeper.ending.set()
    await keeping
    await keeper.close()


async def test_a_start_that_takes_its_time_is_waited_for(tmp_path: Path) -> None:
    worker = Worker()
    worker.stops = "starting"
    # It is looked at every 10 ms.
    keeper = keeper_of(worker, tmp_path, [], hung=0.01)
    keeping = asyncio.create_task(keeper.keep())
    await asyncio.sleep(0.5)
    assert (worker.runs, worker.killed) == (1, 0)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await keeper.close()


async def test_who_is_no_longer_kept_is_gone(tmp_path: Path) -> None:
    worker = Worker()
    keeper = keeper_of(worker, tmp_path, [])
    keeping = asyncio.create_task(keeper.keep())
    await until(lambda: keeper.serves)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert worker.killed == 1
    await keeper.close()
