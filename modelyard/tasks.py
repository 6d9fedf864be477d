"""How a task is ended."""

import asyncio
from typing import Any

# Whoever ends tidies up within this time, undisturbed; in seconds.
_AGAIN = 0.5


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancels tasks and returns when all have ended, whatever became of them.

    Who goes on is cancelled again: `asyncio.wait_for` loses a cancellation that comes as what it
    waits for is done (Python below 3.12), and redis-py calls it for every command.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN)
    await asyncio.gather(*tasks, return_exceptions=True)
