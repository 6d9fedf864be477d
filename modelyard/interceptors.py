"""Turns errors into statuses at one place of every server."""

import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc

from modelyard.errors import Internal, ModelyardError
from modelyard.status import trailing_metadata

Handler: TypeAlias = Any  # grpc's handlers are generic over messages; here they are any.

_log = logging.getLogger(__name__)

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Ends a call whose handler raised with the status of the error.

    An error of ours travels whole. Any other exception is INTERNAL with a fixed text and an
    identifier to look up in the log: what a stranger's exception says is nobody's business.

    Each handler is wrapped once, so that a call that succeeds pays one more coroutine.
    """

    def __init__(self) -> None:
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Wraps the handler of a method, if there is one."""
        handler = await continuation(details)
        if handler is None:
            return handler
        known = self._wrapped.get(details.method)
        if known is None:
            known = self._wrapped[details.method] = _wrap(handler, details.method)
        return known


class Guarded(grpc.GenericRpcHandler):
    """The same handlers, whose errors become statuses, as behind ErrorInterceptor.

    For servers whose time counts: grpc.aio runs the chain of interceptors anew for each call,
    which costs some 30 us; this costs a look-up.

    Args:
        inner: The handlers.
    """

    def __init__(self, inner: grpc.GenericRpcHandler) -> None:
        self._inner = inner
        self._wrapped: dict[str, Handler] = {}

    def service(self, details: grpc.HandlerCallDetails) -> Handler:
        """The handler of a method, or None."""
        known = self._wrapped.get(details.method)
        if known is None:
            handler = self._inner.service(details)
            if handler is None:
                return None
            known = self._wrapped[details.method] = _wrap(handler, details.method)
        return known


async def _abort(context: Any, error: BaseException, method: str) -> NoReturn:
    if not isinstance(error, ModelyardError):
        token = secrets.token_hex(6)
        _log.error("internal error %s in %s", token, method, exc_info=error)
        error = Internal(f"internal error {token}", id=token)
    sent = tuple(context.trailing_metadata() or ())
    await context.abort(_CODES[int(error.code)], error.message, (*sent, *trailing_metadata(error)))
    raise AssertionError("abort raises")


def _wrap(handler: Any, method: str) -> Handler:
    """The same handler, whose errors become statuses; one that is not asynchronous, as it is."""
    inner = getattr(handler, _ARITIES[handler.request_streaming, handler.response_streaming][0])
    make = _ARITIES[handler.request_streaming, handler.response_streaming][1]

    async def answer(request: Any, context: Any) -> Any:
        try:
            return await inner(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # Whatever it is, the caller gets a status.
            await _abort(context, error, method)

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for response in inner(request, context):
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # Whatever it is, the caller gets a status.
            await _abort(context, error, method)

    if inspect.isasyncgenfunction(inner):
        wrapped: Any = stream
    elif inspect.iscoroutinefunction(inner):
        wrapped = answer
    else:
        return handler
    return make(wrapped, handler.request_deserializer, handler.response_serializer)


# By request and response streaming: the handler's attribute, and how a handler is made.
_ARITIES: dict[tuple[bool, bool], tuple[str, Any]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
