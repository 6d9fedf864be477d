"""One door: the services of registry and shadow through the gateway's address, as bytes.

After a change the caller's next call must find it. So the answer to a change waits until this
gateway's own catalogue has reached the revision that the registry gave it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

import grpc
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

from modelyard.calls import answer
from modelyard.errors import Code, ModelyardError, PermissionDenied, StoreUnavailable
from modelyard.metadata import REVISION
from modelyard.registry.v1 import (
    artifact_service_pb2,
    host_service_pb2,
    registry_service_pb2,
    route_service_pb2,
)
from modelyard.shadow.v1 import shadow_service_pb2
from modelyard.status import from_rpc_error

# A gateway that is cut off from the registry's stream must not hold answers back for long.
CATCH_UP = 2.0
# Unless the caller says otherwise. A registration loads the model once, a hand-over waits for it.
DEADLINE = 600.0

SHADOW_FILES: tuple[FileDescriptor, ...] = (shadow_service_pb2.DESCRIPTOR,)
FILES: tuple[FileDescriptor, ...] = (
    registry_service_pb2.DESCRIPTOR,
    artifact_service_pb2.DESCRIPTOR,
    host_service_pb2.DESCRIPTOR,
    route_service_pb2.DESCRIPTOR,
)
# Only supervisors report hosts, and they speak with the registry.
_INSIDE = frozenset({"/modelyard.registry.v1.HostService/ReportHosts"})

Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
Pairs: TypeAlias = tuple[tuple[str, str | bytes], ...]


class CatchUp(Protocol):
    """Waits for the catalogue to reach a revision."""

    def __call__(self, revision: int, timeout: float) -> Awaitable[bool]:
        """Returns at the revision, or after `timeout` seconds."""
        ...


class ControlPlane(grpc.GenericRpcHandler):
    """Passes the methods of another room through.

    Args:
        channel: To the room.
        catch_up: Waits for this gateway's catalogue.
        files: The room's contracts.
        room: As people know it.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        catch_up: CatchUp,
        files: Sequence[FileDescriptor] = FILES,
        room: str = "registry",
    ) -> None:
        self._channel = channel
        self._catch_up = catch_up
        self._room = room
        self._handlers = {
            path: self._refuse() if path in _INSIDE else self._handler(path, method)
            for path, method in _methods(files)
        }

    def service(self, details: grpc.HandlerCallDetails) -> "Handler | None":
        """The handler of a method."""
        return self._handlers.get(details.method)

    def _handler(self, path: str, method: MethodDescriptor) -> Handler:
        match method.client_streaming, method.server_streaming:
            case False, False:
                return grpc.unary_unary_rpc_method_handler(self._unary(path))
            case False, True:
                return grpc.unary_stream_rpc_method_handler(self._download(path))
            case True, False:
                return grpc.stream_unary_rpc_method_handler(self._upload(path))
        raise AssertionError(f"{path}: the registry has no method of both streams")

    def _unary(self, path: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
        send: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            path, None, None
        )

        async def forward(request: bytes, context: Context) -> bytes:
            call = send(request, timeout=_remaining(context), metadata=_passed(context))
            return await self._finish(call, context)

        return forward

    def _upload(self, path: str) -> Callable[[AsyncIterator[bytes], Context], Awaitable[bytes]]:
        send: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = self._channel.stream_unary(
            path, None, None
        )

        async def forward(requests: AsyncIterator[bytes], context: Context) -> bytes:
            call = send(requests, timeout=_remaining(context), metadata=_passed(context))
            return await self._finish(call, context)

        return forward

    def _download(self, path: str) -> Callable[[bytes, Context], AsyncIterator[bytes]]:
        send: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(
            path, None, None
        )

        async def forward(request: bytes, context: Context) -> AsyncIterator[bytes]:
            # A watch lasts as long as its watcher.
            call = send(request, timeout=context.time_remaining(), metadata=_passed(context))
            try:
                async for response in call:
                    yield response
            except grpc.aio.AioRpcError as error:
                raise _translated(error, self._room) from None
            finally:
                call.cancel()

        return forward

    async def _finish(
        self,
        call: grpc.aio.UnaryUnaryCall[bytes, bytes] | grpc.aio.StreamUnaryCall[bytes, bytes],
        context: Context,
    ) -> bytes:
        try:
            response = await answer(call)
            trailing: Pairs = tuple(await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            raise _translated(error, self._room) from None
        for key, value in trailing:
            if key == REVISION and isinstance(value, str) and value.isdigit():
                await self._catch_up(int(value), CATCH_UP)
                context.set_trailing_metadata(((REVISION, value),))
        return response

    @staticmethod
    def _refuse() -> Handler:
        async def refuse(request: bytes, context: Context) -> bytes:
            raise PermissionDenied("hosts are reported to the registry itself")

        return grpc.unary_unary_rpc_method_handler(refuse)


def _methods(files: Sequence[FileDescriptor]) -> list[tuple[str, MethodDescriptor]]:
    return [
        (f"/{service.full_name}/{method.name}", method)
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    ]


def _remaining(context: Context) -> float:
    remaining = context.time_remaining()
    return DEADLINE if remaining is None else remaining


def _passed(context: Context) -> Pairs:
    return tuple(
        (key, value)
        for key, value in context.invocation_metadata() or ()
        if not key.startswith("grpc-") and key not in {"user-agent", "content-type", "te"}
    )


def _translated(error: grpc.aio.AioRpcError, room: str) -> ModelyardError:
    """What the room said; that it said nothing, when it did not answer."""
    known = from_rpc_error(error)
    if known.code is Code.UNAVAILABLE and known.reason == "HOST_GONE":
        return StoreUnavailable(f"the {room} does not answer; inference goes on without it")
    return known
