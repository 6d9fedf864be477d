"""Runs a whole yard in the foreground."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from modelyard.client.aio import AsyncClient
from modelyard.errors import ModelyardError
from modelyard.names import LIVE
from modelyard.registry.v1 import host_pb2
from modelyard.yard import lock, logs, ports, rooms
from modelyard.yard.keeper import Keeper, Room
from modelyard.yard.layout import Layout
from modelyard.yard.rooms import Options

Say = Callable[[str], None]

_START = 60.0
# What was live before is waited for, but not for ever: a model that cannot serve says so itself.
_LIVE_AGAIN = 60.0
_TIDY = 10.0


def run(layout: Layout, options: Options, *, announce: Say, say: Say) -> None:
    """Runs a yard until SIGINT or SIGTERM; a second signal ends it at once.

    Args:
        layout: Its folders.
        options: Its ports and the like.
        announce: Takes the line that begins with `ready`.
        say: Takes lines about what happens.

    Raises:
        FailedPrecondition: Another yard runs on the data, a port is taken, or a room does not
            start; nothing is left running.
    """
    layout.make()
    with lock.held(layout.lock):
        chosen = replace(
            options,
            grpc_port=ports.check(options.host, options.grpc_port, "--grpc-port"),
            metrics_port=ports.check(options.host, options.metrics_port, "--metrics-port"),
        )
        asyncio.run(_run(layout, chosen, announce, say))


async def _run(layout: Layout, options: Options, announce: Say, say: Say) -> None:
    stop = asyncio.Event()
    keepers: list[Keeper] = []

    def on_signal() -> None:
        if stop.is_set():
            for keeper in keepers:
                keeper.kill()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)

    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait())]
    try:
        tasks.append(asyncio.create_task(_start(layout, options, keepers, say)))
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[1] in done:
            await tasks[1]
            announce(
                f"ready {options.address}"
                f" (metrics {options.host}:{options.metrics_port}, data {layout.data})"
            )
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _TIDY)
            for keeper in keepers:
                logs.bound(keeper.room.log)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The door first, then what stands behind it: each ends while what it needs still runs.
        for keeper in reversed(keepers):
            await keeper.stop()


async def _start(layout: Layout, options: Options, keepers: list[Keeper], say: Say) -> None:
    async def start(room: Room) -> None:
        keeper = Keeper(room, say)
        keepers.append(keeper)
        await keeper.start(_START)

    if options.redis is None:
        await start(rooms.redis(layout))
    if options.events is None:
        await start(rooms.events(layout))
    await start(rooms.registry(layout, options))
    await asyncio.gather(
        start(rooms.inference(layout, options)),
        start(rooms.gateway(layout, options)),
        start(rooms.shadow_hosts(layout, options)),
        start(rooms.shadow(layout, options)),
        start(rooms.archive(layout, options)),
    )
    with suppress(TimeoutError):
        async with asyncio.timeout(_LIVE_AGAIN):
            await _wait_for_live(options.address)


async def _wait_for_live(address: str) -> None:
    """Returns when each live version serves or has failed."""
    settled = (host_pb2.Host.STATE_SERVING, host_pb2.Host.STATE_FAILED)
    async with AsyncClient(address) as client:
        while True:
            try:
                wanted = {
                    f"{model.name}/versions/{label.version}"
                    for model in await client.models()
                    for label in model.labels
                    if label.name.endswith(f"/{LIVE}")
                }
                hosts = await client.hosts()
            except ModelyardError:
                pass
            else:
                if wanted <= {host.version for host in hosts if host.state in settled}:
                    return
            await asyncio.sleep(0.1)
