"""Health, the public protocol: what may be called, now and at each change.

grpc_health's own servicer keeps a watch until its client goes, so that a drain lasts the whole
grace; and of several watches of one service it tells the others nothing once the first has gone.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Response: TypeAlias = Any  # grpc_health's package carries no types.

_State = health_pb2.HealthCheckResponse
# The whole server, by the protocol.
OVERALL = ""


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Answers checks and watches."""

    def __init__(self) -> None:
        # A server that has not said that it is ready is not.
        self._states: dict[str, int] = {OVERALL: _State.NOT_SERVING}
        self._changed = asyncio.Event()
        self._leaving = False
        self._closed = False

    def tell(self, service: str, ready: bool) -> None:
        """Says whether a service may be called; nothing once it was told that all end."""
        if not self._leaving:
            self._states[service] = _State.SERVING if ready else _State.NOT_SERVING
            self._wake()

    def leave(self) -> None:
        """Says of every service, and for good, that it ends; watches go on."""
        self._leaving = True
        self._states = dict.fromkeys(self._states, _State.NOT_SERVING)
        self._wake()

    def close(self) -> None:
        """Ends every watch, once it has told what is true now."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: Any, context: Any) -> Response:
        """The state of a service; NOT_FOUND for a strange one."""
        state = self._states.get(request.service)
        if state is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return _State(status=state)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Response]:
        """The state of a service now and at each change; SERVICE_UNKNOWN for a strange one."""
        told = None
        while True:
            state = self._states.get(request.service, _State.SERVICE_UNKNOWN)
            if state != told:
                told = state
                yield _State(status=state)
            elif self._closed:
                return
            else:
                await self._changed.wait()
