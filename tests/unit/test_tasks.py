"""Tasks end when they are told to, also those that lose a cancellation."""

import asyncio
from contextlib import suppress

import pytest

from modelyard.tasks import end
from tests.kit import virtual_time


async def _loses(count: int) -> None:
    while count:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        count -= 1
    await asyncio.sleep(3600)


async def _fails() -> None:
    raise ValueError("of no concern to who ends it")


@pytest.mark.parametrize("lost", [0, 1, 5])
def test_a_task_that_loses_cancellations_ends(lost: int) -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(_loses(lost)), asyncio.create_task(_fails())]
        await asyncio.sleep(0)
        await end(*tasks)
        assert tasks[0].cancelled()
        assert tasks[1].done()

    virtual_time.run(main())


def test_who_tidies_up_is_not_disturbed() -> None:
    tidy = []

    async def works() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.4)
            tidy.append(True)

    async def main() -> None:
        task = asyncio.create_task(works())
        await asyncio.sleep(0)
        await end(task)

    virtual_time.run(main())
    assert tidy == [True]


def test_none_is_none() -> None:
    virtual_time.run(end())
