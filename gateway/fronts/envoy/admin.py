"""Asks the Envoy that this runs in, over its administration socket."""

import asyncio
import http.client
import json
import socket
from pathlib import Path
from typing import Any

_PATIENCE = 5.0


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

    async def address(self, listener: str) -> dict[str, Any] | None:
        """What a listener is bound to, as Envoy's `Address`; None while it is not."""
        held = json.loads(await self._ask("GET", "/listeners?format=json"))
        for one in held.get("listener_statuses", ()):
            if one["name"] == listener:
                found: dict[str, Any] = one["local_address"]
                return found
        return None

    async def count(self, statistic: str) -> int:
        """The value of a gauge or counter; 0 for one that was not used yet."""
        path = f"/stats?format=json&filter=^{statistic.replace('.', '[.]')}$"
        for one in json.loads(await self._ask("GET", path))["stats"]:
            if one.get("name") == statistic:
                return int(one["value"])
        return 0

    async def drain(self) -> None:
        """From now on connections are asked to go, and no new ones are taken."""
        await self._ask("POST", "/drain_listeners?graceful&skip_exit")
        await self._ask("POST", "/drain_listeners")

    async def quit(self) -> None:
        """Ends the process."""
        await self._ask("POST", "/quitquitquit")

    async def _ask(self, method: str, path: str) -> str:
        # In a thread: few questions, and the library's client knows HTTP.
        return await asyncio.to_thread(_ask, self._socket, method, path)


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
