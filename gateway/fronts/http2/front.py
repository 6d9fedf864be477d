"""Listens, tells HTTP/2 from HTTP/1.1 by the first bytes, and drains."""

import asyncio
import os
import random
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

from gateway.fronts import asgi
from gateway.fronts.behind import behind, folder
from gateway.fronts.http2 import frames
from gateway.fronts.http2.application import Application
from gateway.fronts.http2.connection import Connection
from gateway.fronts.http2.http1 import Http1
from gateway.fronts.relay import Relay
from gateway.fronts.rest import Rest
from gateway.serve import serve
from gateway.settings import GatewaySettings
from gateway.stack import Service
from gateway.workers.group import Group
from modelyard.channels import open_channel
from modelyard.errors import FailedPrecondition

# Who connects has so long to say what it speaks, in seconds.
_GREETING: Final = 10.0
_BACKLOG: Final = 1_024

Caller: TypeAlias = Connection | Http1


async def run(settings: GatewaySettings, ending: asyncio.Event, group: Group | None = None) -> None:
    """Serves until told to end; raises as `gateway.serve.serve`."""
    with folder() as where:
        front = Front(settings, where / "grpc")
        try:
            await serve(behind(settings, where / "grpc"), ending, front, group)
        finally:
            await front.close()


class Front:
    """What callers reach. Implements `gateway.serve.Outer`.

    Args:
        settings: Where and how it listens.
        inner: The socket of the grpc.aio server, which answers what is not hot.

    Raises:
        FailedPrecondition: The address cannot be listened on, or a TLS file is none.
    """

    def __init__(self, settings: GatewaySettings, inner: Path) -> None:
        self._settings = settings
        self._tls = _tls(settings)
        # Before anything else is begun: an address that is taken is told at once.
        self._listening = _bound(settings.listen)
        self._channel = open_channel(
            f"unix:{inner}", max_message_bytes=settings.max_message_bytes, retries=False
        )
        self._server: asyncio.Server | None = None
        # Those that are there, and when each is asked to go, where it is.
        self._callers: dict[Caller, asyncio.TimerHandle | None] = {}
        self._changed = asyncio.Event()
        self._leaving = False

    async def open(self, service: Service, clock: Callable[[], float]) -> str:
        """Takes calls from now on; gives the address."""
        limit = self._settings.max_message_bytes
        rest = Rest(service, clock, limit, self._channel)
        plain = asgi.Application(service, clock, limit, rest)
        application = Application(service, clock, plain, Relay(self._channel, limit))

        def http2() -> Connection:
            return Connection(application.open, self._left, limit, clock)

        def http1() -> Http1:
            return Http1(application.answer, self._left)

        def greeter() -> _Greeter:
            return _Greeter(self, http2, http1)

        loop = asyncio.get_running_loop()
        given: dict[str, Any] = {"ssl": self._tls, "backlog": _BACKLOG}
        if self._tls is not None:
            given["ssl_handshake_timeout"] = _GREETING
        listen = self._settings.listen
        is_path = listen.startswith("unix:")
        serve_at = loop.create_unix_server if is_path else loop.create_server
        try:
            # Only now: who connects is answered.
            self._server = await serve_at(greeter, sock=self._listening, **given)
        except OSError as error:
            raise _taken(listen) from error
        if is_path:
            return listen
        port = self._listening.getsockname()[1]
        return f"{listen.rpartition(':')[0]}:{port}"

    def came(self, caller: Caller) -> None:
        """A connection has said what it speaks."""
        self._callers[caller] = None
        if self._leaving:
            caller.leave()
        elif age := self._settings.max_connection_age:
            # Not all of those that came together.
            self._later(caller, random.uniform(0.9, 1.1) * age, self._aged)

    def _aged(self, caller: Caller) -> None:
        """Asks a connection to go, and ends it where it does not."""
        caller.leave()
        if caller in self._callers:
            self._later(caller, self._settings.drain_grace, lambda caller: caller.abort())

    def _later(self, caller: Caller, seconds: float, do: Callable[[Caller], None]) -> None:
        loop = asyncio.get_running_loop()
        self._callers[caller] = loop.call_later(seconds, do, caller)

    def _left(self, caller: Caller) -> None:
        timer = self._callers.pop(caller, None)
        if timer is not None:
            timer.cancel()
        self._changed.set()

    async def leave(self) -> None:
        """Takes no connection any more, and asks those that there are to go; calls go on."""
        self._leaving = True
        if self._server is not None:
            self._server.close()
        if self._settings.listen.startswith("unix:"):
            with suppress(OSError):
                os.unlink(self._settings.listen.removeprefix("unix:"))
        for caller in tuple(self._callers):
            caller.leave()

    async def drained(self) -> None:
        """Returns when no caller is left, or the grace is over: then it ends them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_grace):
                while self._callers:
                    self._changed.clear()
                    await self._changed.wait()
        for caller in tuple(self._callers):
            caller.abort()

    async def close(self) -> None:
        """Ends at once."""
        if self._server is not None:
            self._server.close()
        self._listening.close()
        for caller in tuple(self._callers):
            caller.abort()
        await self._channel.close()


class _Greeter(asyncio.Protocol):
    """A connection that has not said what it speaks."""

    def __init__(
        self, front: Front, http2: Callable[[], Connection], http1: Callable[[], Http1]
    ) -> None:
        self._front = front
        self._http2, self._http1 = http2, http1
        self._said = b""
        self._transport: Any = None
        self._timer = asyncio.get_running_loop().call_later(_GREETING, self._late)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._said += data
        if self._said.startswith(frames.PREFACE):
            self._become(self._http2(), self._said[len(frames.PREFACE) :])
        elif not frames.PREFACE.startswith(self._said):
            self._become(self._http1(), self._said)

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()

    def _become(self, caller: Caller, rest: bytes) -> None:
        self._timer.cancel()
        self._transport.set_protocol(caller)
        caller.connection_made(self._transport)
        self._front.came(caller)
        if rest:
            caller.data_received(rest)

    def _late(self) -> None:
        self._transport.abort()


def _bound(listen: str) -> socket.socket:
    """A socket that does not listen yet; raises FailedPrecondition."""
    try:
        if listen.startswith("unix:"):
            return _unix(listen.removeprefix("unix:"))
        host, _, port = listen.rpartition(":")
        host = host.strip("[]")
        family, kind, protocol, _, where = socket.getaddrinfo(
            host or "::", int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            # No SO_REUSEPORT: two processes on one port would share its calls in silence.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if host in ("", "::"):
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            made.bind(where)
        except OSError:
            made.close()
            raise
        return made
    except OSError as error:
        raise _taken(listen) from error


def _taken(listen: str) -> FailedPrecondition:
    return FailedPrecondition(f"listen {listen!r}: cannot be bound; is it taken?", field="listen")


def _unix(path: str) -> socket.socket:
    if Path(path).is_socket() and not _answered(path):
        # What a killed process left behind is in nobody's way.
        os.unlink(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(path)
        # Before it listens, so that nobody else was let in meanwhile.
        os.chmod(path, 0o600)
    except OSError:
        made.close()
        raise
    return made


def _answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            caller.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            pass  # Somebody is there, and does not let us in.
    return True


def _tls(settings: GatewaySettings) -> ssl.SSLContext | None:
    """For TLS 1.2 at least; None without. Raises FailedPrecondition."""
    if settings.tls_cert is None:
        return None
    for path in (settings.tls_cert, settings.tls_key, settings.tls_client_ca):
        if path is not None and not os.access(path, os.R_OK):
            raise FailedPrecondition(f"TLS: {str(path)!r} cannot be read")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
        if settings.tls_client_ca is not None:
            context.load_verify_locations(settings.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except ssl.SSLError as error:
        raise FailedPrecondition(
            f"TLS: {str(settings.tls_cert)!r}, its key or its authorities are not PEM, or do not"
            f" belong together: {error.reason or error}"
        ) from error
    return context
