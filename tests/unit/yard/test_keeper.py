"""A room's process is kept running, and is ended with its yard."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from modelyard.errors import FailedPrecondition
from modelyard.yard import tether
from modelyard.yard.keeper import Keeper, Room
from tests.kit.yard import eventually

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


def room(folder: Path, program: str, grace: float = 10.0) -> Room:
    log = folder / "room.log"

    async def says_so() -> bool:
        return log.exists() and b"up" in log.read_bytes()

    return Room("room", (sys.executable, "-c", program), log, says_so, grace)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


async def test_starts_again_what_ends(tmp_path: Path) -> None:
    said: list[str] = []
    keeper = Keeper(room(tmp_path, SLEEP), said.append)
    await keeper.start(30)
    first = keeper.pid
    assert first

    os.kill(first, signal.SIGKILL)
    await until(lambda: keeper.pid not in (None, first))
    second = keeper.pid
    await keeper.stop()

    assert len(said) == 1
    assert "room ended (signal SIGKILL); starts again in" in said[0]
    assert keeper.pid is None
    assert second and not psutil.pid_exists(second)


async def test_kills_what_does_not_end(tmp_path: Path) -> None:
    said: list[str] = []
    keeper = Keeper(room(tmp_path, STUBBORN, grace=0.3), said.append)
    await keeper.start(30)

    await keeper.stop()

    assert said == ["room did not end in 0.3 s; killed"]
    assert keeper.pid is None


async def test_gives_up_on_what_never_stays(tmp_path: Path) -> None:
    keeper = Keeper(room(tmp_path, "raise SystemExit('no such file')"), lambda _: None)

    with pytest.raises(FailedPrecondition, match=r"room does not stay up; its log .*\n.*no such"):
        await keeper.start(30)
    await keeper.stop()


async def test_gives_up_on_what_is_never_ready(tmp_path: Path) -> None:
    keeper = Keeper(room(tmp_path, "import time; time.sleep(600)"), lambda _: None)

    with pytest.raises(FailedPrecondition, match=r"room is not ready after 0\.2 s"):
        await keeper.start(0.2)
    await keeper.stop()

    assert keeper.pid is None


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's tether is Linux's")
def test_what_is_tethered_dies_with_its_parent() -> None:
    program = f"""
import os, subprocess, sys
tied = [sys.executable, {tether.__file__!r}, str(os.getpid()), sys.executable, "-c", {SLEEP!r}]
child = subprocess.Popen(tied, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()

    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
