"""What runs inside Envoy: the whole gateway, on one event loop in one thread of it.

pyvoy imports `application` and speaks ASGI to it. The gateway is built when Envoy reads its
configuration (ASGI's lifespan), and Envoy listens only once that is done.
"""

import asyncio
import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gateway.fronts.asgi import Receive, Scope, Send
from gateway.fronts.behind import behind
from gateway.fronts.envoy import config
from gateway.fronts.envoy.admin import Admin, NoAnswer
from gateway.fronts.envoy.application import Application, Resets
from gateway.fronts.envoy.link import DRAIN, TOLD, Told
from gateway.fronts.rest import Rest
from gateway.settings import GatewaySettings
from gateway.stack import Service
from gateway.workers.group import Group
from modelyard import logs
from modelyard.channels import open_channel
from modelyard.errors import ModelyardError


class Inside:
    """The ASGI application. It is made by the import and begins with `lifespan`."""

    def __init__(self) -> None:
        self._resets = Resets()
        self._inner: Application | None = None
        self._ending = asyncio.Event()
        self._opened = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "lifespan":
            assert self._inner is not None, "Envoy listens after the lifespan began"
            await self._inner(scope, receive, send)
            return
        await receive()
        told: Told = json.loads(os.environ[TOLD])
        gateway = asyncio.create_task(self._serve(told))
        opened = asyncio.create_task(self._opened.wait())
        await asyncio.wait((gateway, opened), return_when=asyncio.FIRST_COMPLETED)
        if not self._opened.is_set():
            opened.cancel()
            await send({"type": "lifespan.startup.failed"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._ending.set()
        await gateway
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, told: Told) -> None:
        from gateway.serve import serve

        settings = GatewaySettings(**told["settings"])
        sys.executable = told["python"]
        # What Envoy needed to find this Python, processes that the gateway starts do not: `process`
        # has put its library behind whatever was to be loaded before.
        del os.environ["PYTHONHOME"]
        os.environ["LD_PRELOAD"] = os.environ["LD_PRELOAD"].rpartition(os.pathsep)[0]
        group = Group.of(told["group"]) if told["group"] else None
        logs.configure("gateway", level=settings.log_level)
        loop = asyncio.get_running_loop()
        link = socket.socket(fileno=told["link"])
        self._watch(link, loop, Path(told["folder"]))
        loop.add_reader(told["resets"], self._resets.read, told["resets"])
        self._files = config.Files(Path(told["folder"]), Path())
        self._admin = Admin(self._files.admin)
        self._settings = settings
        try:
            await serve(behind(settings, self._files.behind), self._ending, self, group)
        except ModelyardError as error:
            link.send(error.message.encode())
        else:
            with suppress(NoAnswer):
                await self._admin.quit()

    def _watch(self, link: socket.socket, loop: asyncio.AbstractEventLoop, folder: Path) -> None:
        """Obeys the process that started Envoy, and ends where it is gone.

        In a thread: whatever the loop does, no orphan keeps the port.
        """

        def watch() -> None:
            while link.recv(1) == DRAIN:
                loop.call_soon_threadsafe(self._ending.set)
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(1)

        threading.Thread(target=watch, name="link", daemon=True).start()

    async def open(self, service: Service, clock: Callable[[], float]) -> str:
        """See `gateway.serve.Outer`."""
        limit = self._settings.max_message_bytes
        behind = open_channel(f"unix:{self._files.behind}")
        rest = Rest(service, clock, limit, behind)
        self._inner = Application(service, clock, limit, self._resets, rest)
        self._opened.set()
        # Envoy answers once it has read its configuration, of which this is a part.
        return await self._admin.opened(self._settings.listen)

    async def leave(self) -> None:
        """See `gateway.serve.Outer`."""
        # Envoy may have been told to end itself: what it has begun goes on until it does.
        with suppress(NoAnswer):
            await self._admin.leave(self._files.pressure)

    async def drained(self) -> None:
        """See `gateway.serve.Outer`."""
        await self._admin.left(self._settings.drain_grace)


application = Inside()
