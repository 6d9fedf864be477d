"""Awaits a unary call so that giving up neither leaks nor leaves the server at work.

Cancelling the task that awaits a grpc.aio call, or the call's own `cancel()`, cancels the task
that waits for the batch under it, and grpcio keeps about 1 KiB of native memory each time, in
every version that was measured (docs/adr/0006-the-grpcio-pin.md; grpc/grpc#43360). Here the
RPC alone is cancelled: its batch ends, and everything is given back.
"""

import asyncio
from typing import Any, TypeVar

import grpc.aio
from grpc.aio import _call

Response = TypeVar("Response")


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
    # The task that waits for the batch is never cancelled, only no longer waited for: what
    # `asyncio.shield` does, in half of its time.
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(_: object) -> None:
        if not ended.done():
            ended.set_result(None)

    response.add_done_callback(end)
    try:
        await ended
    except asyncio.CancelledError:
        stop(call)
        raise
    return await call
