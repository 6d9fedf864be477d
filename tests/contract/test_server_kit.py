"""What every server gives: TLS, health and its drain, reflection, channelz, message limits.

Past 300 lines: each of these is asked of the one servant that stands at the top.
"""

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from benchmarks.fuzz import http2
from benchmarks.fuzz.requests import headers
from modelyard.errors import FailedPrecondition, MessageTooLarge
from modelyard.health import Health
from modelyard.server import Server
from modelyard.settings import ServerSettings, config
from modelyard.status import from_rpc_error
from tests.kit.certificates import Authority

SERVICE = "inference.GRPCInferenceService"
LIMIT = 10_000
# So long may a step of a test take on a machine that does much else; none is meant to.
PATIENCE = 30.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Settings(ServerSettings):
    """A server's settings, without an environment."""

    model_config = config("server_kit_test")


class Servant(grpc.GenericRpcHandler):
    """Echoes, answers at a length, or works until it is told to end."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.end = asyncio.Event()
        self.order: list[str] = []

    def service(self, details: Any) -> Any:
        methods = {"/test/Echo": self._echo, "/test/Long": self._long, "/test/Work": self._work}
        methods["/test/Refuse"] = self._refuse
        method = methods.get(details.method)
        return method and grpc.unary_unary_rpc_method_handler(method)

    async def _echo(self, request: bytes, context: Any) -> bytes:
        return request

    async def _long(self, request: bytes, context: Any) -> bytes:
        return bytes(int(request))

    async def _refuse(self, request: bytes, context: Any) -> bytes:
        self.began.set()
        try:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await context.abort(grpc.StatusCode.NOT_FOUND)
        except grpc.aio.InternalError as error:
            self.order.append("InternalError")
            raise error
        finally:
            self.end.set()
        raise AssertionError("abort raises")

    async def _work(self, request: bytes, context: Any) -> bytes:
        self.began.set()
        await self.end.wait()
        self.order.append("answered")
        return request


@asynccontextmanager
async def serve(**given: Any) -> AsyncIterator[tuple[Server, Servant, str]]:
    """A server that serves; gives its address too."""
    settings = Settings.model_validate({"drain_propagation": 0.0, "drain_grace": PATIENCE, **given})
    server, servant = Server(settings, [SERVICE]), Servant()
    server.handlers.add_generic_rpc_handlers((servant,))
    address = await server.start()
    await server.serving()
    try:
        async with asyncio.timeout(PATIENCE * 3):
            yield server, servant, address
    finally:
        await server.stop(at_once=True)


async def _call(channel: grpc.aio.Channel, method: str, request: bytes) -> bytes:
    answer = await channel.unary_unary(f"/test/{method}")(request, timeout=PATIENCE)
    assert isinstance(answer, bytes)
    return answer


async def _refused(channel: grpc.aio.Channel) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _call(channel, "Echo", b"hello")
    code = caught.value.code()
    assert isinstance(code, grpc.StatusCode)
    return code


async def _health(channel: grpc.aio.Channel, service: str) -> int:
    answer = await health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE
    )
    return int(answer.status)


# TLS


@pytest.fixture
def authority(tmp_path: Path) -> Callable[[str], Authority]:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    return lambda name: Authority(tmp_path / name)


def _secure(
    address: str, roots: Authority, pair: tuple[Path, Path] | None = None
) -> grpc.aio.Channel:
    cert, key = (path.read_bytes() for path in pair) if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(roots.cert.read_bytes(), key, cert)
    return grpc.aio.secure_channel(address, credentials)


async def test_tls_answers_those_who_trust_its_authority(
    authority: Callable[[str], Authority],
) -> None:
    ours, strange = authority("ours"), authority("strange")
    cert, key = ours.sign()
    async with serve(tls_cert=cert, tls_key=key) as (_, _, address):
        async with _secure(address, ours) as channel:
            assert await _call(channel, "Echo", b"hello") == b"hello"
        async with _secure(address, strange) as channel:
            assert await _refused(channel) is grpc.StatusCode.UNAVAILABLE
        async with grpc.aio.insecure_channel(address) as channel:
            assert await _refused(channel) is grpc.StatusCode.UNAVAILABLE


async def test_mutual_tls_refuses_a_client_without_a_certificate(
    authority: Callable[[str], Authority],
) -> None:
    ours, clients, strange = authority("ours"), authority("clients"), authority("strange")
    cert, key = ours.sign()
    given = {"tls_cert": cert, "tls_key": key, "tls_client_ca": clients.cert}
    async with serve(**given) as (_, _, address):
        async with _secure(address, ours, clients.sign()) as channel:
            assert await _call(channel, "Echo", b"hello") == b"hello"
        # Nor does it help that the same authority signed the server's own.
        for pair in (None, strange.sign(), ours.sign()):
            async with _secure(address, ours, pair) as channel:
                assert await _refused(channel) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("missing", ["tls_cert", "tls_key", "tls_client_ca"])
def test_a_tls_file_that_is_missing_is_named(missing: str, tmp_path: Path) -> None:
    given = {name: tmp_path / name for name in ("tls_cert", "tls_key", "tls_client_ca")}
    for name, path in given.items():
        if name != missing:
            path.touch()
    with pytest.raises(FailedPrecondition, match=re.escape(str(given[missing]))):
        Server(Settings.model_validate(given), [])


async def test_a_tls_file_that_holds_no_certificate_is_no_address_that_is_taken(
    tmp_path: Path,
) -> None:
    cert, key = tmp_path / "cert", tmp_path / "key"
    cert.write_text("strange")
    key.write_text("strange")
    server = Server(Settings.model_validate({"tls_cert": cert, "tls_key": key}), [])
    with pytest.raises(FailedPrecondition, match="TLS file"):
        await server.start()
    await server.stop(at_once=True)


# Listening


async def test_an_address_that_is_taken_is_named() -> None:
    async with serve() as (_, _, address):
        second = Server(Settings.model_validate({"listen": address}), [])
        with pytest.raises(FailedPrecondition, match=address) as caught:
            await second.start()
        assert caught.value.metadata == {"field": "listen"}
        await second.stop(at_once=True)


# Health and the drain


async def test_health_tells_of_the_server_and_of_each_service() -> None:
    async with serve() as (server, _, address), grpc.aio.insecure_channel(address) as channel:
        for service in ("", SERVICE):
            assert await _health(channel, service) == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _health(channel, "strange.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        await server.serving(False)
        for service in ("", SERVICE):
            assert await _health(channel, service) == NOT_SERVING


async def test_a_drain_is_told_before_any_call_is_refused() -> None:
    async with serve() as (server, servant, address), grpc.aio.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        working = asyncio.create_task(_call(channel, "Work", b"done"))
        await servant.began.wait()

        await server.leave()
        assert (await watch.read()).status == NOT_SERVING
        assert await _health(channel, SERVICE) == NOT_SERVING
        # Those who have not heard yet are still answered.
        assert await _call(channel, "Echo", b"late") == b"late"
        # And nothing makes it welcome calls again.
        await server.serving()
        assert await _health(channel, "") == NOT_SERVING
        assert not working.done()

        servant.end.set()
        assert await working == b"done"
        watch.cancel()


async def _closed(address: str) -> None:
    """Waits until nobody listens."""
    host, _, port = address.rpartition(":")
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except ConnectionError:
            return
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_call_in_flight_ends_well_before_the_server_does() -> None:
    async with serve() as (server, servant, address), grpc.aio.insecure_channel(address) as channel:
        working = asyncio.create_task(_call(channel, "Work", b"done"))
        await servant.began.wait()

        async def drain() -> None:
            await server.drain()
            servant.order.append("closed")

        draining = asyncio.create_task(drain())
        # A call that races with the end may be dropped; one that comes after it is refused.
        await _closed(address)
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(address, options=options) as late:
            assert await _refused(late) is grpc.StatusCode.UNAVAILABLE
        assert not working.done()
        assert not draining.done()

        servant.end.set()
        assert await working == b"done"
        await draining
        assert servant.order == ["answered", "closed"]


async def test_a_drain_waits_for_nobody_who_only_watches_health() -> None:
    async with (
        serve(drain_grace=PATIENCE * 1000) as (server, _, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [
            stub.Watch(health_pb2.HealthCheckRequest(service=service))
            for service in ("", SERVICE, SERVICE, "strange.Service")
        ]
        for watch in watches[:3]:
            assert (await watch.read()).status == SERVING
        assert (await watches[3].read()).status == UNKNOWN
        async with asyncio.timeout(PATIENCE):
            await server.drain()
        # Each was told before it ended.
        for watch in watches[:3]:
            assert (await watch.read()).status == NOT_SERVING
        for watch in watches:
            assert await watch.read() is grpc.aio.EOF


async def test_a_watch_of_health_that_goes_takes_no_other_with_it() -> None:
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    told = Health()
    told.tell(SERVICE, True)
    first, second = told.Watch(request, None), told.Watch(request, None)
    for watch in (first, second):
        assert (await anext(watch)).status == SERVING
    waiting = [asyncio.create_task(anext(watch)) for watch in (first, second)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    told.tell(SERVICE, False)
    async with asyncio.timeout(PATIENCE):
        assert (await waiting[1]).status == NOT_SERVING


async def test_a_call_longer_than_the_grace_is_ended() -> None:
    async with (
        serve(drain_grace=0.0) as (server, servant, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        working = asyncio.create_task(_call(channel, "Work", b"done"))
        await servant.began.wait()
        await server.drain()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await working
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert servant.order == []


# What looks into it


async def test_reflection_lists_the_services() -> None:
    request = reflection_pb2.ServerReflectionRequest
    async with serve() as (_, _, address), grpc.aio.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = (request(list_services=""), request(file_containing_symbol="strange.Service"))
        answers = [a async for a in stub.ServerReflectionInfo(iter(asked), timeout=PATIENCE)]
    assert {service.name for service in answers[0].list_services_response.service} == {
        SERVICE,
        "grpc.channelz.v1.Channelz",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert answers[1].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("service", [SERVICE, "grpc.health.v1.Health"])
async def test_reflection_describes_services_of_either_pool(service: str) -> None:
    asked = (reflection_pb2.ServerReflectionRequest(file_containing_symbol=service),)
    async with serve() as (_, _, address), grpc.aio.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (answer,) = [a async for a in stub.ServerReflectionInfo(iter(asked), timeout=PATIENCE)]
    described = {
        f"{file.package}.{held.name}"
        for file in map(
            descriptor_pb2.FileDescriptorProto.FromString,
            answer.file_descriptor_response.file_descriptor_proto,
        )
        for held in file.service
    }
    assert service in described


async def test_channelz_counts_the_calls_of_the_server() -> None:
    async with serve() as (_, _, address), grpc.aio.insecure_channel(address) as channel:
        before = await _calls_started(channel)
        for _ in range(7):
            await _call(channel, "Echo", b"hello")
        after = await _calls_started(channel)
    # One process may have run several servers; in between ours had these, and the second look.
    grown = [after[server] - before.get(server, 0) for server in after]
    assert [growth for growth in grown if growth] == [8]


async def _calls_started(channel: grpc.aio.Channel) -> dict[int, int]:
    """By server of this process."""
    told = await channelz_pb2_grpc.ChannelzStub(channel).GetServers(
        channelz_pb2.GetServersRequest(), timeout=PATIENCE
    )
    return {server.ref.server_id: server.data.calls_started for server in told.server}


# Message limits


async def test_messages_up_to_the_limit_pass() -> None:
    async with (
        serve(max_message_bytes=LIMIT) as (_, _, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        assert await _call(channel, "Echo", bytes(LIMIT)) == bytes(LIMIT)


@pytest.mark.parametrize(
    ("method", "request_"),
    [("Echo", bytes(LIMIT + 1)), ("Long", str(LIMIT + 1).encode())],
    ids=["request", "response"],
)
async def test_a_message_over_the_limit_is_too_large(method: str, request_: bytes) -> None:
    async with (
        serve(max_message_bytes=LIMIT) as (_, _, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _call(channel, method, request_)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        error = from_rpc_error(caught.value)
        assert (type(error), error.reason) == (MessageTooLarge, "MESSAGE_TOO_LARGE")
        assert str(LIMIT + 1) in error.message
        assert str(LIMIT) in error.message.replace(str(LIMIT + 1), "")
        # The connection is as good as before.
        assert await _call(channel, "Echo", b"hello") == b"hello"


# Bytes that are no message


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.channelz.v1.Channelz/GetServers",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_bytes_that_are_no_message_are_their_senders_fault(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as (_, _, address), grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(path)(iter([b"\xff\xff\xff"]), timeout=PATIENCE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [answer async for answer in call]
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "the request is no " in str(caught.value.details())
        assert await _call(channel, "Echo", b"hello") == b"hello"
    # Whoever sends them fills no log.
    assert [record for record in caplog.records if record.exc_info] == []


# What brings grpc.aio down


BAD = b"/test/\xe5cho"


def _ask_for(address: str, path: bytes) -> None:
    """Sends the head of a call, as no client of gRPC would."""
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        connection = socket.create_connection((host, int(port)), PATIENCE)
    sent = ((b":path", path) if name == b":path" else (name, value) for name, value in headers())
    with connection:
        held = http2.head(1, http2.block(sent))
        connection.sendall(http2.PREFACE + http2.settings() + b"".join(held))
        connection.settimeout(PATIENCE)
        reader, going = http2.Reader(), False
        while not going:
            received = connection.recv(1 << 16)
            assert received, "closed without a word"
            going = any(frame.kind == http2.GOAWAY for frame in reader.feed(received))


async def _in_the_end(address: str) -> bytes:
    """The answer to a new caller, who asks again if it came to the server that ends.

    grpc's core cancels calls over a connection that it accepted while it stopped listening.
    """
    passing = {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
    while True:
        async with grpc.aio.insecure_channel(address) as another:
            await another.channel_ready()
            try:
                return await _call(another, "Echo", b"hello")
            except grpc.aio.AioRpcError as error:
                assert error.code() in passing, error.details()
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix"])
async def test_a_method_whose_name_is_no_text_harms_nobody_for_long(
    listen: str, tmp_path: Path
) -> None:
    where = f"unix:{tmp_path}/s" if listen == "unix" else listen
    async with serve(listen=where) as (server, servant, address):
        async with grpc.aio.insecure_channel(address) as channel:
            under_way = asyncio.create_task(_call(channel, "Work", b"slow"))
            await servant.began.wait()
            for _ in range(3):
                await asyncio.to_thread(_ask_for, address, BAD)
                assert await _in_the_end(address) == b"hello"
            servant.end.set()
            assert await under_way == b"slow"
        # Those that broke down take nothing along when they are gone.
        while server._broken:
            await asyncio.sleep(0.02)
        async with grpc.aio.insecure_channel(address) as another:
            assert await _call(another, "Echo", b"hello") == b"hello"


async def test_a_caller_who_is_gone_when_it_is_refused_is_no_defect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serve() as (_, servant, address), grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary("/test/Refuse")(b"")
        await servant.began.wait()
        call.cancel()
        await servant.end.wait()
        assert await _call(channel, "Echo", b"hello") == b"hello"
    assert servant.order == ["InternalError"]
    assert [record for record in caplog.records if record.name == "modelyard.interceptors"] == []


async def test_calls_that_have_to_wait_are_answered() -> None:
    async with serve() as (_, _, address), grpc.aio.insecure_channel(address) as channel:
        answers = await asyncio.gather(*(_call(channel, "Echo", b"%d" % n) for n in range(5000)))
    assert answers == [b"%d" % n for n in range(5000)]
