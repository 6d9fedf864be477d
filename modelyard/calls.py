"""Awaits a unary call so that giving up neither leaks nor leaves the server at work.

Cancelling the task that awaits a grpc.aio call, or the call's own `cancel()`, cancels the task
that waits for the batch under it, and grpcio keeps about 1 KiB of native memory each time, in
every version that was measured (docs/adr/0006-the-grpcio-pin.md; grpc/grpc#43360). Here the
RPC alone is cancelled: its batch ends, and everything is given back.

`Method` goes further, for those whose every call counts: it asks the core of grpc.aio without the
call object around it, which does more than a lane needs (docs/adr/0011-the-core-of-grpc-aio.md).
Both name private parts of grpcio, both do without where these are not there, and one contract
suite runs over all ways.
"""

import asyncio
import time
from typing import Any, TypeAlias, TypeVar

import grpc.aio
from grpc.aio import _call

Response = TypeVar("Response")
Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def stop(call: grpc.aio.Call) -> None:
    """Cancels the RPC and lets its batch end; the server stops as after `cancel()`."""
    if isinstance(call, _call.Call):
        _call.Call.cancel(call)
    else:  # behind client interceptors there is no other way
        call.cancel()


async def answer(
    call: "grpc.aio.UnaryUnaryCall[Any, Response] | grpc.aio.StreamUnaryCall[Any, Response]",
) -> Response:
    """Gives the call's answer; when the awaiting task is cancelled, so is the RPC.

    Raises:
        grpc.aio.AioRpcError: The RPC failed.
        asyncio.CancelledError: The awaiting task was cancelled.
    """
    response = getattr(call, "_call_response", None)
    if response is None:  # behind client interceptors there is no task to shield
        return await call
    try:
        await _end_of(response)
    except asyncio.CancelledError:
        stop(call)
        raise
    return await call


class Method:
    """A unary method of a channel: bytes in, bytes out.

    Args:
        channel: Has no interceptors.
        path: `/package.Service/Method`.
    """

    def __init__(self, channel: grpc.aio.Channel, path: str) -> None:
        self._core = getattr(channel, "_channel", None)
        self._path = path.encode()
        self._public: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        if not hasattr(self._core, "call"):
            self._core = None
        # The channel knows nothing of these, and so would not end them when it is closed.
        self._under_way: set[Any] = set()

    async def __call__(self, payload: bytes, timeout: float, metadata: Metadata = ()) -> bytes:
        """Gives the response; when the awaiting task is cancelled, so is the RPC.

        Args:
            payload: The serialized request.
            timeout: In seconds.
            metadata: Sent along.

        Raises:
            grpc.aio.AioRpcError: The RPC failed.
            asyncio.CancelledError: The awaiting task was cancelled.
        """
        core = self._core
        if core is None:
            return await answer(self._public(payload, timeout=timeout, metadata=metadata))
        call = core.call(self._path, time.time() + timeout, None, None)
        batch = asyncio.get_running_loop().create_task(call.unary_unary(payload, metadata))
        self._under_way.add(call)
        try:
            await _end_of(batch)
        except asyncio.CancelledError:
            call.cancel("given up")
            batch.add_done_callback(_looked_at)
            raise
        finally:
            self._under_way.discard(call)
        if batch.cancelled():  # by who ends the loop
            raise asyncio.CancelledError
        response = batch.result()
        if call.is_ok():
            return bytes(response)
        status = await call.status()
        raise grpc.aio.AioRpcError(
            _CODES.get(status.code(), grpc.StatusCode.UNKNOWN),
            grpc.aio.Metadata(),
            grpc.aio.Metadata(*(status.trailing_metadata() or ())),
            details=status.details(),
            debug_error_string=status.debug_error_string(),
        )

    def stop(self) -> None:
        """Ends the calls under way as cancelled; the channel may be closed then."""
        for call in self._under_way:
            call.cancel("the channel is closed")


async def _end_of(task: "asyncio.Task[Any]") -> None:
    """Waits for a task that is never cancelled, only no longer waited for.

    What `asyncio.shield` does, without a second future.
    """
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(_: object) -> None:
        if not ended.done():
            ended.set_result(None)

    task.add_done_callback(end)
    await ended


def _looked_at(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled():
        task.exception()
