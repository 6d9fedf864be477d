"""The server that every room runs: one way to listen, to be looked into, and to end.

Health, reflection and channelz at each; errors become statuses at one place; message limits
are set on purpose. On SIGTERM or SIGINT it drains: health turns NOT_SERVING, clients have a
moment to see it, calls under way end within the grace, and only then the process ends; who
only watches health holds nothing up. A second signal ends it at once.

A grpc.aio server that is asked for a method whose name is not UTF-8 stops listening, for good
(grpcio 1.85: the loop that takes calls ends with UnicodeDecodeError). Nothing of what callers send
can be looked at before; so it is watched, and another one takes its place. A call over a connection
that was made in between ends with CANCELLED or UNAVAILABLE; after either from a host the gateway
tries another way.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from google.protobuf import descriptor_pool
from grpc_channelz.v1 import channelz, channelz_pb2_grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from modelyard.errors import FailedPrecondition
from modelyard.health import OVERALL, Health
from modelyard.inference.v2 import open_inference_pb2
from modelyard.interceptors import Guarded

if TYPE_CHECKING:
    from modelyard.telemetry import Tracing

_log = logging.getLogger(__name__)

CHANNELZ = "grpc.channelz.v1.Channelz"
# Calls that wait for the loop to take them; of more, grpc's core ends some by chance, with
# CANCELLED, which no client tries again. By default 1,000 and 3,000.
_PENDING, _MOST_PENDING = 10_000, 30_000
# How often a server is asked whether it broke down, and its address whether it is free again.
_LOOK, _AGAIN = 0.1, 0.01


class _Pools:
    """Several descriptor pools, searched as one.

    The public protocol lives in a pool of its own, so that other packages may register the
    same names in the default one.
    """

    def __init__(self, pools: Iterable[Any]) -> None:
        self._pools = tuple(pools)

    def __getattr__(self, name: str) -> Any:
        """A method of a pool that finds something by asking each pool in turn."""

        def find(*arguments: Any) -> Any:
            for pool in self._pools:
                try:
                    return getattr(pool, name)(*arguments)
                except KeyError:
                    continue
            raise KeyError(arguments)

        return find


class _Looks:
    """What generated code is given to add what looks in: guarded, and without spans."""

    def __init__(self, handlers: list[grpc.GenericRpcHandler]) -> None:
        self._handlers = handlers

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self._handlers += [Guarded(handler) for handler in handlers]

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """As `Server.add_registered_method_handlers`."""


class Listening(Protocol):
    """Where and how a server listens; `modelyard.settings.ServerSettings` says what each is."""

    @property
    def listen(self) -> str: ...  # noqa: D102 - the settings tell
    @property
    def max_message_bytes(self) -> int: ...  # noqa: D102
    @property
    def max_connection_age(self) -> float: ...  # noqa: D102
    @property
    def drain_propagation(self) -> float: ...  # noqa: D102
    @property
    def drain_grace(self) -> float: ...  # noqa: D102
    def credentials(self) -> grpc.ServerCredentials | None: ...  # noqa: D102


class Server:
    """A grpc.aio server with what every room needs.

    Args:
        settings: Where and how it listens.
        services: The full names of the services that callers add, for health and reflection.
        tracing: Makes a span of each call; None for no spans.

    Raises:
        FailedPrecondition: A certificate or a key cannot be read.
    """

    def __init__(
        self, settings: Listening, services: Sequence[str], tracing: "Tracing | None" = None
    ) -> None:
        # Before anything is waited for: a wrong path is told at once.
        self._credentials = _credentials(settings)
        self._settings = settings
        self._services = tuple(services)
        self._tracing = tracing
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._grpc: grpc.aio.Server | None = None
        self._keeper: asyncio.Task[None] | None = None
        # Those that broke down, and the calls that they still answer.
        self._broken: set[asyncio.Task[None]] = set()
        self.health = Health()

    @property
    def handlers(self) -> Any:
        """What generated code is given for a server; it asks for no more than these two methods."""
        return self

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Adds handlers; of two that know a method, the one that was added first answers."""
        self._handlers += [Guarded(handler, self._tracing) for handler in handlers]

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Generated code adds the same handlers twice; the generic form is enough."""

    def _add_looks(self) -> None:
        """What lets others look in: health, channelz, reflection."""
        looks: Any = _Looks(self._handlers)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, looks)
        channelz_pb2_grpc.add_ChannelzServicer_to_server(channelz.aio.ChannelzServicer(), looks)
        names = (*self._services, health.SERVICE_NAME, CHANNELZ, reflection.SERVICE_NAME)
        pools = _Pools((open_inference_pb2.DESCRIPTOR.pool, descriptor_pool.Default()))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer(names, pool=pools), looks
        )

    async def start(self) -> str:
        """Listens; gives the address with the port that was bound.

        Raises:
            FailedPrecondition: The address is taken, or may not be listened on; or what is in
                a TLS file is none of certificates and key.
        """
        # Last, because grpc asks handlers in the order of their adding, for every call.
        self._add_looks()
        listen, why = self._settings.listen, "is it taken?"
        if self._credentials is not None:
            # grpc says no more of a bad certificate than of an address that is taken.
            why = "is it taken, or a TLS file not PEM?"
        try:
            self._grpc, address = self._listening(listen)
        except RuntimeError as error:
            raise FailedPrecondition(
                f"listen {listen!r}: cannot be bound; {why}", field="listen"
            ) from error
        await self._grpc.start()
        self._keeper = asyncio.create_task(self._keep(self._grpc, address))
        return address

    def _listening(self, listen: str) -> tuple[grpc.aio.Server, str]:
        """A server that was not started; raises RuntimeError where it cannot listen."""
        server = grpc.aio.server(options=_options(self._settings))
        server.add_generic_rpc_handlers(tuple(self._handlers))
        if self._credentials is None:
            port = server.add_insecure_port(listen)
        else:
            port = server.add_secure_port(listen, self._credentials)
        known = listen.startswith("unix:")
        return server, listen if known else f"{listen.rpartition(':')[0]}:{port}"

    async def _keep(self, server: grpc.aio.Server, address: str) -> None:
        """Puts another server in the place of one that broke down."""
        while True:
            try:
                if await server.wait_for_termination(_LOOK):
                    continue
            except Exception as error:  # Whatever it was, nobody is served any more.
                _log.error("the server broke down, and begins anew: %r", error)
            # It listens no more; what it has begun may end.
            ending = asyncio.create_task(server.stop(self._settings.drain_grace))
            self._broken.add(ending)
            ending.add_done_callback(self._broken.discard)
            while True:
                try:
                    server, _ = self._listening(address)
                    break
                except RuntimeError:
                    await asyncio.sleep(_AGAIN)
            await server.start()
            self._grpc = server

    async def serving(self, ready: bool = True) -> None:
        """Says by health whether calls are welcome."""
        for name in (OVERALL, *self._services):
            self.health.tell(name, ready)

    async def drain(self) -> None:
        """Ends: tells, waits until it is heard, lets calls end, closes."""
        await self.leave()
        await self.stop()

    async def leave(self) -> None:
        """Tells by health that it ends, and waits until that is heard; calls go on."""
        self.health.leave()
        await asyncio.sleep(self._settings.drain_propagation)

    async def stop(self, at_once: bool = False) -> None:
        """Takes no call any more, lets those under way end within the grace, and closes."""
        # Not sooner: a client whose watch ends opens it again, as long as it can.
        self.health.close()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
        if self._grpc is not None:
            await self._grpc.stop(None if at_once else self._settings.drain_grace)
        if self._broken:
            await asyncio.wait(self._broken)


def _credentials(settings: Listening) -> grpc.ServerCredentials | None:
    try:
        return settings.credentials()
    except OSError as error:
        raise FailedPrecondition(
            f"TLS: {str(error.filename)!r} cannot be read: {error.strerror}"
        ) from error


def _options(settings: Listening) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.server.max_pending_requests", _PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
        # Two processes on one port would share its calls in silence.
        ("grpc.so_reuseport", 0),
        # Clients may ask idle connections whether they live, every 5 s; 5 minutes by default.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if settings.max_connection_age:
        # Lets clients balance anew over servers that came later.
        options += [
            ("grpc.max_connection_age_ms", int(settings.max_connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", int(settings.drain_grace * 1000)),
        ]
    return options


@asynccontextmanager
async def signals(again: Callable[[], object] | None = None) -> AsyncIterator[asyncio.Event]:
    """An event that the first SIGTERM or SIGINT sets.

    Args:
        again: What the second does; None for the end of the process.
    """
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told(number: signal.Signals) -> None:
        if ending.is_set():
            _log.warning("told twice: ending at once")
            if again is not None:
                again()
                return
            loop.remove_signal_handler(number)
            signal.raise_signal(number)
        ending.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, told, number)
    try:
        yield ending
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
