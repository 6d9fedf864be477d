"""Turns errors into statuses at one place of every server."""

import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from modelyard.errors import Internal, InvalidArgument, ModelyardError
from modelyard.metadata import REQUEST_ID
from modelyard.status import trailing_metadata

if TYPE_CHECKING:
    from modelyard.telemetry import Tracing

Handler: TypeAlias = Any  # grpc's handlers are generic over messages; here they are any.

_log = logging.getLogger(__name__)

# Of grpc.aio itself: the handler ended the call, or the caller is gone. It knows what to do.
_GRPCS = (grpc.aio.AbortError, grpc.aio.InternalError)
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Guarded(grpc.GenericRpcHandler):
    """The same handlers, whose errors become statuses, and whose calls make spans.

    An error of ours travels whole. Any other exception is INTERNAL with a fixed text and an
    identifier to look up in the log: what a stranger's exception says is nobody's business. Bytes
    that are no message are the caller's fault, INVALID_ARGUMENT; grpc.aio would take them for a
    fault of the server's, UNKNOWN, and write a traceback of each.

    grpc.aio runs a chain of interceptors anew for each call, which costs; a handler
    that is wrapped once costs a look-up.

    Args:
        inner: The handlers.
        tracing: Makes a span of each call that one response ends; None for no spans.
    """

    def __init__(self, inner: grpc.GenericRpcHandler, tracing: "Tracing | None" = None) -> None:
        self._inner = inner
        self._tracing = tracing
        self._wrapped: dict[str, Handler] = {}

    def service(self, details: grpc.HandlerCallDetails) -> Handler:
        """The handler of a method, or None."""
        known = self._wrapped.get(details.method)
        if known is None:
            handler = self._inner.service(details)
            if handler is None:
                return None
            known = _wrap(handler, details.method, self._tracing)
            self._wrapped[details.method] = known
        return known


def as_ours(
    error: BaseException, method: str, received: Iterable[tuple[str, str | bytes]]
) -> ModelyardError:
    """An error of ours as it is; any other becomes Internal, and a line of the log.

    Args:
        error: What a handler raised.
        method: Which one.
        received: The call's metadata.
    """
    if isinstance(error, ModelyardError):
        return error
    token = secrets.token_hex(6)
    request = dict(received).get(REQUEST_ID, "")
    _log.error("internal error %s in %s, request %s", token, method, request or "-", exc_info=error)
    return Internal(f"internal error {token}", id=token)


async def _abort(context: Any, error: BaseException, method: str) -> NoReturn:
    error = as_ours(error, method, context.invocation_metadata() or ())
    sent = tuple(context.trailing_metadata() or ())
    await context.abort(_CODES[int(error.code)], error.message, (*sent, *trailing_metadata(error)))
    raise AssertionError("abort raises")


def _taking(handler: Any) -> Callable[[Any], Any] | None:
    """Makes a handler's request, or stream of them, of bytes; None for one that takes bytes.

    Of bytes that are no message it raises InvalidArgument.
    """
    deserialize = handler.request_deserializer
    if deserialize is None:
        return None
    name = getattr(getattr(deserialize, "__self__", None), "__name__", "message")

    def one(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            raise InvalidArgument(f"the request is no {name}") from None

    async def each(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in requests:
            yield one(data)

    return each if handler.request_streaming else one


def _wrap(handler: Any, method: str, tracing: "Tracing | None") -> Handler:
    """The same handler, whose errors become statuses; one that is not asynchronous, as it is."""
    inner = getattr(handler, _ARITIES[handler.request_streaming, handler.response_streaming][0])
    make = _ARITIES[handler.request_streaming, handler.response_streaming][1]
    if not (inspect.isasyncgenfunction(inner) or inspect.iscoroutinefunction(inner)):
        return handler
    take = _taking(handler)

    async def in_span(request: Any, context: Any) -> Any:
        assert tracing is not None, "chosen below"
        with tracing.served(method, context.invocation_metadata() or ()):
            return await inner(request, context)

    work = inner if tracing is None else in_span

    async def answer(request: Any, context: Any) -> Any:
        try:
            return await work(request if take is None else take(request), context)
        except _GRPCS:
            raise
        except Exception as error:  # Whatever it is, the caller gets a status.
            await _abort(context, error, method)

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for response in inner(request if take is None else take(request), context):
                yield response
        except _GRPCS:
            raise
        except Exception as error:  # Whatever it is, the caller gets a status.
            await _abort(context, error, method)

    wrapped: Any = stream if inspect.isasyncgenfunction(inner) else answer
    return make(wrapped, None, handler.response_serializer)


# By request and response streaming: the handler's attribute, and how a handler is made.
_ARITIES: dict[tuple[bool, bool], tuple[str, Any]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
