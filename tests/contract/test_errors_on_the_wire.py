"""Every error of the tree over a real server, and back as what it was."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from modelyard.errors import DOMAIN, Internal, ModelyardError, Overloaded, all_errors
from modelyard.server import Server
from modelyard.settings import ServerSettings, config
from modelyard.status import from_parts, from_rpc_error, trailing_metadata


class Settings(ServerSettings):
    """A server's settings, without an environment."""

    model_config = config("test")


class Raising(grpc.GenericRpcHandler):
    """Raises what it is told to, from both kinds of answers."""

    def __init__(self) -> None:
        self.error: Exception = AssertionError("nothing to raise")

    def service(self, details: Any) -> Any:
        if details.method == "/test/Unary":
            return grpc.unary_unary_rpc_method_handler(self._unary)
        if details.method == "/test/Stream":
            return grpc.unary_stream_rpc_method_handler(self._stream)
        return None

    async def _unary(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("modelyard-request-id", "r1"),))
        raise self.error

    async def _stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        raise self.error


@pytest.fixture
async def served() -> AsyncIterator[tuple[Raising, grpc.aio.Channel]]:
    handler = Raising()
    given = {"drain_propagation": 0.0, "drain_grace": 0.0}
    server = Server(Settings.model_validate(given), ["test"])
    server.handlers.add_generic_rpc_handlers((handler,))
    address = await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield handler, channel
    await server.drain()


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
async def test_an_error_comes_back_as_it_was(
    served: tuple[Raising, grpc.aio.Channel], kind: type[ModelyardError]
) -> None:
    handler, channel = served
    handler.error = kind("why, in words", retry_after=timedelta(seconds=1.5), model="digits")
    for call in (
        channel.unary_unary("/test/Unary")(b""),
        channel.unary_stream("/test/Stream")(b""),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            if isinstance(call, grpc.aio.UnaryUnaryCall):
                await call
            else:
                async for _ in call:
                    pass
        assert caught.value.code().value[0] == kind.code
        back = from_rpc_error(caught.value)
        assert type(back) is kind
        assert (back.message, back.metadata) == ("why, in words", {"model": "digits"})
        assert back.retry_after == timedelta(seconds=1.5)


async def test_what_was_said_before_the_error_is_kept(
    served: tuple[Raising, grpc.aio.Channel],
) -> None:
    handler, channel = served
    handler.error = Internal("x")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/test/Unary")(b"")
    assert ("modelyard-request-id", "r1") in tuple(caught.value.trailing_metadata())


async def test_a_strangers_exception_tells_nothing(
    served: tuple[Raising, grpc.aio.Channel], caplog: pytest.LogCaptureFixture
) -> None:
    handler, channel = served
    handler.error = ValueError("the password is 1234")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/test/Unary")(b"")
    error = from_rpc_error(caught.value)
    assert type(error) is Internal
    assert error.message == f"internal error {error.metadata['id']}"
    assert "1234" not in str(caught.value)
    assert error.metadata["id"] in caplog.text
    assert "the password is 1234" in caplog.text


async def test_an_unknown_method_is_unimplemented(
    served: tuple[Raising, grpc.aio.Channel],
) -> None:
    _, channel = served
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/test/Other")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_reasons_are_unique() -> None:
    reasons = [kind.reason for kind in all_errors()]
    assert len(set(reasons)) == len(reasons)
    assert DOMAIN == "modelyard"


@pytest.mark.parametrize("key", ["self", "message", "retry_after"])
def test_facts_may_have_any_name(key: str) -> None:
    sent = Overloaded("no")
    sent.metadata = {key: "odd"}
    got = from_parts(8, "no", trailing_metadata(sent))
    assert (type(got), got.message, got.metadata) == (Overloaded, "no", {key: "odd"})


def test_a_time_to_wait_that_is_none_leaves_the_status() -> None:
    status = status_pb2.Status(code=8, message="no")
    info = error_details_pb2.ErrorInfo(reason=Overloaded.reason, domain=DOMAIN)
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.seconds = 1 << 62
    for detail in (info, retry):
        status.details.add().Pack(detail)
    got = from_parts(8, "no", (("grpc-status-details-bin", status.SerializeToString()),))
    assert got.message == "no"
    assert got.retry_after is None
