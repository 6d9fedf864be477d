"""The gRPC lane and a host that says more than an answer: pushback, attempts before, its end."""

import asyncio
import contextlib
import math
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from gateway.call import Call
from gateway.compiler import direct
from gateway.defaults import Defaults
from gateway.guards import Guards
from gateway.lanes.grpc_lane import GrpcEndpoint
from gateway.meter import Meter
from gateway.race import Racer
from gateway.replicas import Replicas
from modelyard.catalog import Catalog, Host, HostState
from modelyard.errors import HostGone, ModelyardError, Unavailable
from modelyard.names import VersionName

V1 = VersionName("m", 1)


class Moody(grpc.GenericRpcHandler):
    """Fails the first `failures` calls with UNAVAILABLE and a pushback; notes what it was sent."""

    def __init__(self, failures: int, pushback: str | None) -> None:
        self.failures, self.pushback = failures, pushback
        self.sent: list[dict[str, Any]] = []
        self.at: list[float] = []

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, payload: bytes, context: Any) -> bytes:
        self.sent.append(dict(context.invocation_metadata()))
        self.at.append(asyncio.get_running_loop().time())
        if len(self.sent) <= self.failures:
            trailing = (("grpc-retry-pushback-ms", self.pushback),) if self.pushback else ()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now", trailing)
        return payload


@pytest.fixture
async def servers() -> AsyncIterator[list[grpc.aio.Server]]:
    started: list[grpc.aio.Server] = []
    yield started
    for server in started:
        await server.stop(None)


async def serve(servers: list[grpc.aio.Server], handler: Moody) -> str:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    servers.append(server)
    return f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("told", "pushback"),
    [(None, None), ("0", 0.0), ("250", 0.25), ("-1", math.inf), ("soon", math.inf)],
)
async def test_a_pushback_is_understood(
    servers: list[grpc.aio.Server], told: str | None, pushback: float | None
) -> None:
    endpoint = GrpcEndpoint(await serve(servers, Moody(1, told)), 1 << 20)
    with pytest.raises(Unavailable) as caught:
        await endpoint.call("ModelInfer", b"?", (), 5.0)
    assert caught.value.pushback == pushback
    await endpoint.close()


async def race(servers: list[grpc.aio.Server], handler: Moody) -> bytes | ModelyardError:
    """One race of up to three attempts, with the handler at both of its replicas."""
    clock = asyncio.get_running_loop().time
    replicas = Replicas(lambda host: GrpcEndpoint(host.address, 1 << 20), clock, random.Random(1))
    replicas.update(
        [Host(f"h{i}", V1, HostState.SERVING, await serve(servers, handler)) for i in range(2)]
    )
    guards = Guards(replicas, clock, random.Random(1))
    racer = Racer(replicas, guards, Defaults(Catalog, clock), Meter(), clock)
    try:
        answer = await racer.run(Call("m", "", b"?", clock() + 10.0, "r"), direct(V1, 3))
        return answer.payload
    except ModelyardError as error:
        return error
    finally:
        await replicas.close()


async def test_later_attempts_say_how_many_there_were(servers: list[grpc.aio.Server]) -> None:
    handler = Moody(1, None)
    assert await race(servers, handler) == b"?"
    assert [sent.get("grpc-previous-rpc-attempts") for sent in handler.sent] == [None, "1"]


async def test_a_retry_waits_as_it_is_told(servers: list[grpc.aio.Server]) -> None:
    handler = Moody(1, "80")
    assert await race(servers, handler) == b"?"
    assert handler.at[1] - handler.at[0] >= 0.08


async def test_a_host_may_forbid_retries(servers: list[grpc.aio.Server]) -> None:
    handler = Moody(3, "-1")
    assert isinstance(await race(servers, handler), Unavailable)
    assert len(handler.sent) == 1


async def test_a_host_that_ends_is_gone(servers: list[grpc.aio.Server]) -> None:
    address = await serve(servers, Moody(0, None))
    endpoint = GrpcEndpoint(address, 1 << 20)
    await servers[0].stop(None)
    with pytest.raises(HostGone):
        await endpoint.call("ModelInfer", b"?", (), 5.0)
    await endpoint.close()


async def test_a_host_that_is_slow_to_shake_hands_is_waited_for(
    servers: list[grpc.aio.Server],
) -> None:
    host, port = (await serve(servers, Moody(0, None))).split(":")
    pipes: list[asyncio.Task[None]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.4)  # as over a long way, or at a busy machine
        there, back = await asyncio.open_connection(host, port)
        pipes.extend(
            (asyncio.ensure_future(pipe(reader, back)), asyncio.ensure_future(pipe(there, writer)))
        )

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while received := await reader.read(1 << 16):
                writer.write(received)
        writer.close()

    far = await asyncio.start_server(connected, "127.0.0.1", 0)
    endpoint = GrpcEndpoint(f"127.0.0.1:{far.sockets[0].getsockname()[1]}", 1 << 20)
    assert await endpoint.call("ModelInfer", b"?", (), 10.0) == b"?"
    await endpoint.close()
    far.close()
    await asyncio.gather(*pipes)


async def test_a_host_that_comes_back_is_found_soon(servers: list[grpc.aio.Server]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = GrpcEndpoint(f"127.0.0.1:{port}", 1 << 20)
    for _ in range(3):
        with pytest.raises(HostGone):
            await endpoint.call("ModelInfer", b"?", (), 5.0)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Moody(0, None),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    servers.append(server)
    tries = 0
    while True:
        tries += 1
        try:
            assert await endpoint.call("ModelInfer", b"?", (), 5.0) == b"?"
            break
        except HostGone:
            assert tries < 100
            await asyncio.sleep(0.05)
    await endpoint.close()
