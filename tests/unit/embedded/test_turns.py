"""A loop whose turns callers take."""

import asyncio

from services.embedded.turns import Turns


def test_what_ends_in_the_last_turn_is_told_of() -> None:
    turns = Turns()

    async def quick() -> int:
        return 7

    # As `run` and `close` do, one right after the other: both are begun in one turn of the loop.
    with turns._lock:
        turns._closing = True
        asked = asyncio.run_coroutine_threadsafe(quick(), turns._loop)
        asyncio.run_coroutine_threadsafe(turns._end(), turns._loop)
    assert asked.result(10) == 7
    turns.close()
