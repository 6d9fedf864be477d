"""Carries errors over the wire: one table, both ways.

On the wire an error is a `google.rpc.Status` with one `ErrorInfo` (AIP-193) and, where a retry
may succeed later, a `RetryInfo`; it travels in the trailing metadata `grpc-status-details-bin`.
"""

from collections.abc import Iterable
from datetime import timedelta

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from modelyard.errors import (
    DOMAIN,
    Aborted,
    AlreadyExists,
    Cancelled,
    Code,
    DeadlineExceeded,
    FailedPrecondition,
    HostGone,
    Internal,
    InvalidArgument,
    MessageTooLarge,
    ModelyardError,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unimplemented,
    all_errors,
)

DETAILS = "grpc-status-details-bin"

_BY_REASON = {error.reason: error for error in all_errors()}
# What a status means that carries no reason of ours.
_BY_NUMBER: dict[int, type[ModelyardError]] = {
    int(error.code): error
    for error in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        HostGone,
        ResourceExhausted,
        DeadlineExceeded,
        Cancelled,
        Unauthenticated,
        PermissionDenied,
        Unimplemented,
        Internal,
    )
}


def to_status(error: ModelyardError) -> status_pb2.Status:
    """The error as it travels."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    status = status_pb2.Status(code=int(error.code), message=error.message)
    status.details.add().Pack(info)
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(error.retry_after)
        status.details.add().Pack(retry)
    return status


def trailing_metadata(error: ModelyardError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that carries the error's details."""
    return ((DETAILS, to_status(error).SerializeToString()),)


# What grpc.aio itself says, without asking a server, when a stream breaks while it writes.
_BROKEN_BATCH = "Internal error from Core"


def from_rpc_error(error: grpc.RpcError) -> ModelyardError:
    """The error that a server of ours sent; of other servers, the class of its code.

    Args:
        error: What a call raised, of grpc or of grpc.aio.
    """
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError), "raised by a call"
    return from_parts(error.code().value[0], error.details() or "", error.trailing_metadata() or ())


def from_parts(
    code: int, message: str, trailing: Iterable[tuple[str, str | bytes]]
) -> ModelyardError:
    """The error that a status means, whatever carried it.

    Args:
        code: As gRPC numbers them; one that it does not know means nothing.
        message: The status's text.
        trailing: The metadata that came with it.
    """
    for key, value in trailing:
        if key == DETAILS and isinstance(value, bytes):
            known = _from_details(value)
            if known is not None:
                return known
    if code == Code.RESOURCE_EXHAUSTED and "message larger than max" in message:
        return MessageTooLarge(message)
    if code == Code.INTERNAL and message == _BROKEN_BATCH:
        return HostGone(message)
    return _BY_NUMBER.get(code, ModelyardError)(message)


def _from_details(serialized: bytes) -> ModelyardError | None:
    try:
        status = status_pb2.Status.FromString(serialized)
        info, retry_after = _unpack(status.details)
    except (DecodeError, OverflowError):  # the second is of a time to wait that is none
        return None
    if info is None or info.domain != DOMAIN or info.reason not in _BY_REASON:
        return None
    error = _BY_REASON[info.reason](status.message, retry_after=retry_after)
    # Not as arguments: a server may name its facts as it likes.
    error.metadata = dict(info.metadata)
    return error


def _unpack(details: "list[Any]") -> tuple[error_details_pb2.ErrorInfo | None, timedelta | None]:
    info, retry_after = None, None
    for detail in details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToTimedelta()
    return info, retry_after
