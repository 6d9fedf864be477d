"""A coroutine that is begun by hand goes on in a task as if it had begun there."""

import asyncio

import pytest

from modelyard.eager import Begun


class Work:
    """Waits for a future, and says how that ended."""

    def __init__(self) -> None:
        self.future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.ended = ""

    async def __call__(self) -> int:
        try:
            first = await self.future
            await asyncio.sleep(0)
            return first + 1
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        except ValueError as error:
            self.ended = str(error)
            raise
        finally:
            self.ended = self.ended or "finished"


def begun(work: Work) -> Begun[int]:
    coroutine = work()
    return Begun(coroutine, coroutine.send(None))


async def test_its_result() -> None:
    work = Work()
    task = asyncio.create_task(begun(work))
    asyncio.get_running_loop().call_soon(work.future.set_result, 1)
    assert await task == 2
    assert work.ended == "finished"


async def test_what_it_waits_for_is_there_already() -> None:
    work = Work()
    rest = begun(work)
    work.future.set_result(1)
    assert await asyncio.create_task(rest) == 2


async def test_it_may_be_awaited() -> None:
    work = Work()
    rest = begun(work)
    work.future.set_result(1)
    assert await rest == 2


async def test_its_error() -> None:
    work = Work()
    task = asyncio.create_task(begun(work))
    work.future.set_exception(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await task
    assert work.ended == "no"


@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_a_cancelled_task_tells_it_also_before_its_first_step(steps: int) -> None:
    work = Work()
    task = asyncio.create_task(begun(work))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.ended == "cancelled"


async def test_it_is_closed() -> None:
    work = Work()
    begun(work).close()
    assert work.ended == "finished"
