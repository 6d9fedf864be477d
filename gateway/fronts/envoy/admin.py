"""Asks an Envoy, over its administration socket."""

import asyncio
import http.client
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.fronts.envoy.parts import GOING, LISTENER
from modelyard.errors import FailedPrecondition

_PATIENCE = 5.0
_OPENS = 30.0
_POLL = 0.02


class NoAnswer(Exception):
    """Envoy does not answer, or not yet."""


class Admin:
    """Envoy's administration interface.

    Interface: https://www.envoyproxy.io/docs/envoy/latest/operations/admin

    Args:
        socket: Where it listens.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket)

    async def opened(self, listen: str) -> str:
        """Waits until Envoy listens; gives where callers find it, in the words of the setting.

        Raises:
            FailedPrecondition: It does not in time.
        """
        for _ in range(int(_OPENS / _POLL)):
            with suppress(NoAnswer):
                bound = await self._bound()
                if bound is not None:
                    return _address(listen, bound)
            await asyncio.sleep(_POLL)
        raise FailedPrecondition(f"Envoy does not listen after {_OPENS:g} s")

    async def leave(self, pressure: Path) -> None:
        """Takes no connection any more, and asks those that there are to go; calls go on.

        Args:
            pressure: The file of this name that Envoy was told.
        """
        await self._ask("POST", "/drain_listeners?graceful&skip_exit")
        await self._ask("POST", "/drain_listeners")
        # Whole at once: Envoy reads the file when another takes its name.
        high = pressure.with_suffix(".new")
        high.write_text("1", encoding="utf-8")
        high.rename(pressure)
        await asyncio.sleep(2 * GOING)

    async def left(self, grace: float) -> None:
        """Returns when no connection is left, Envoy is gone, or `grace` seconds are over."""
        with suppress(TimeoutError, NoAnswer):
            async with asyncio.timeout(grace):
                while await self._count(f"http.{LISTENER}.downstream_cx_active"):
                    await asyncio.sleep(_POLL)

    async def _bound(self) -> dict[str, Any] | None:
        """What the listener is bound to, as Envoy's `Address`; None while it is not."""
        held = json.loads(await self._ask("GET", "/listeners?format=json"))
        for one in held.get("listener_statuses", ()):
            if one["name"] == LISTENER:
                found: dict[str, Any] = one["local_address"]
                return found
        return None

    async def _count(self, statistic: str) -> int:
        """The value of a gauge or counter; 0 for one that was not used yet."""
        path = f"/stats?format=json&filter=^{statistic.replace('.', '[.]')}$"
        for one in json.loads(await self._ask("GET", path))["stats"]:
            if one.get("name") == statistic:
                return int(one["value"])
        return 0

    async def quit(self) -> None:
        """Ends the process."""
        await self._ask("POST", "/quitquitquit")

    async def _ask(self, method: str, path: str) -> str:
        # In a thread: few questions, and the library's client knows HTTP.
        return await asyncio.to_thread(_ask, self._socket, method, path)


def _address(listen: str, bound: dict[str, Any]) -> str:
    if listen.startswith("unix:"):
        return listen
    return f"{listen.rpartition(':')[0]}:{bound['socket_address']['port_value']}"


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("admin", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ask(where: str, method: str, path: str) -> str:
    connection = _Connection(where)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"{method} {path}: {error!r}") from None
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise NoAnswer(f"{method} {path}: {response.status} {body}")
    return body
