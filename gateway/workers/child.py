"""A worker with its front in its own process: a process of its own, and what runs in it.

Run as `python -m gateway.workers.child` by the parent, with what it is told in the environment.
"""

import asyncio
import json
import os
import sys
from contextlib import suppress
from typing import Final

from gateway.run import run_front
from gateway.settings import GatewaySettings
from gateway.workers.group import Group
from modelyard import logs
from modelyard.errors import FailedPrecondition, InvalidArgument
from modelyard.yard import tether

# In the environment: the settings and the group, as JSON.
_TOLD: Final = "MODELYARD_GATEWAY_WORKER"
# Beyond the grace of the drain: for what has been waited for to be closed.
_MARGIN: Final = 10.0
# Ends with this where its settings are wrong.
_WRONG: Final = 2


async def run(settings: GatewaySettings, ending: asyncio.Event, group: Group) -> int:
    """Runs a worker until told to end; gives its exit code. Cancelled, it ends it at once.

    Raises:
        FailedPrecondition: It was told something wrong; it has said what.
    """
    told = json.dumps({"settings": settings.model_dump(mode="json"), "group": group.told()})
    process = await asyncio.create_subprocess_exec(
        # However the parent ends, no worker outlives it.
        *(sys.executable, "-I", "-S", tether.__file__, str(os.getpid())),
        *(sys.executable, "-m", "gateway.workers.child"),
        env={**os.environ, _TOLD: told},
        # A Ctrl-C in the terminal is for the parent. No session of its own: see
        # `modelyard.background`.
        process_group=0,
    )
    over = asyncio.create_task(process.wait())
    told_to_end = asyncio.create_task(ending.wait())
    try:
        await asyncio.wait((over, told_to_end), return_when=asyncio.FIRST_COMPLETED)
        if not over.done():
            process.terminate()
            patience = settings.drain_propagation + settings.drain_grace + _MARGIN
            await asyncio.wait((over,), timeout=patience)
            return process.returncode if process.returncode is not None else 1
    finally:
        told_to_end.cancel()
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode == _WRONG:
        raise FailedPrecondition(f"worker {group.index} cannot serve: it has said why")
    return process.returncode or 0


def main() -> int:
    """Serves as the environment says."""
    told = json.loads(os.environ.pop(_TOLD))
    settings = GatewaySettings(**told["settings"])
    logs.configure("gateway", level=settings.log_level)
    try:
        return run_front(settings, Group.of(told["group"]))
    except (FailedPrecondition, InvalidArgument) as error:
        print(error.message, file=sys.stderr)
        return _WRONG


if __name__ == "__main__":
    sys.exit(main())
