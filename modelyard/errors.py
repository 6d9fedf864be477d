"""Every error that Modelyard raises on purpose.

One tree, for servers and clients alike. A class fixes three things: the status code that
travels, the `reason` that programs match on (never the text), and what a race does when an
attempt ends so::

    ModelyardError
    ├── InvalidArgument          INVALID_ARGUMENT     surface
    │   ├── InvalidName
    │   ├── InvalidTensor
    │   ├── InvalidArtifact
    │   ├── InvalidRoute
    │   └── InvalidPageToken
    ├── NotFound                 NOT_FOUND            surface
    │   ├── ModelNotFound
    │   ├── VersionNotFound
    │   ├── LabelNotFound
    │   ├── BlobNotFound
    │   └── EvaluationNotFound
    ├── AlreadyExists            ALREADY_EXISTS       surface
    ├── FailedPrecondition       FAILED_PRECONDITION  surface
    │   ├── VersionNotServing                         fall back
    │   ├── VersionInUse
    │   ├── NoHistory
    │   └── SequenceLost
    ├── Aborted                  ABORTED              surface
    │   ├── StaleEtag
    │   └── OffsetMismatch
    ├── OutOfRange               OUT_OF_RANGE         surface
    ├── Unavailable              UNAVAILABLE          retry, then fall back
    │   ├── HostGone
    │   └── StoreUnavailable                          surface
    ├── ResourceExhausted        RESOURCE_EXHAUSTED   surface
    │   ├── Overloaded                                fall back
    │   ├── OverQuota
    │   └── MessageTooLarge
    ├── DeadlineExceeded         DEADLINE_EXCEEDED    fall back
    ├── Cancelled                CANCELLED            surface
    ├── Unauthenticated          UNAUTHENTICATED      surface
    ├── PermissionDenied         PERMISSION_DENIED    surface
    ├── Unimplemented            UNIMPLEMENTED        surface
    └── Internal                 INTERNAL             fall back

This module imports neither grpc nor protobuf; `modelyard.status` carries an error over the wire.
It is past 300 lines so that the tree stays in one place.
"""

from collections.abc import Iterator
from datetime import timedelta
from enum import Enum, IntEnum
from typing import ClassVar

DOMAIN = "modelyard"


class Code(IntEnum):
    """Status codes, numbered as gRPC numbers them."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class OnFailure(Enum):
    """What a race does when an attempt ends in an error."""

    SURFACE = "surface"
    RETRY = "retry"
    FALL_BACK = "fall back"


class ModelyardError(Exception):
    """The root of the tree.

    Args:
        message: A sentence for a person. Programs match on `reason`.
        retry_after: When a new call may succeed, where that is known.
        metadata: Facts for a program, such as `model="digits"`.

    Attributes:
        pushback: Seconds that a server wants to pass before a retry, infinity for none at all;
            None where it said nothing (`grpc-retry-pushback-ms`).
    """

    code: ClassVar[Code] = Code.UNKNOWN
    reason: ClassVar[str] = "UNKNOWN"
    on_failure: ClassVar[OnFailure] = OnFailure.FALL_BACK

    def __init__(
        self, message: str, *, retry_after: timedelta | None = None, **metadata: str
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.metadata = metadata
        self.pushback: float | None = None


class InvalidArgument(ModelyardError):
    """The request is wrong, whatever the state of the yard."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"
    on_failure = OnFailure.SURFACE


class InvalidName(InvalidArgument):
    """A model, version or label is not named as names are."""

    reason = "INVALID_NAME"


class InvalidTensor(InvalidArgument):
    """An input does not fit the model's signature, or its bytes do not fit its shape."""

    reason = "INVALID_TENSOR"


class InvalidArtifact(InvalidArgument):
    """The files are no model that this yard can serve."""

    reason = "INVALID_ARTIFACT"


class InvalidRoute(InvalidArgument):
    """A route names an unknown field, or a value out of its range."""

    reason = "INVALID_ROUTE"


class InvalidPageToken(InvalidArgument):
    """A page token was not given by this list."""

    reason = "INVALID_PAGE_TOKEN"


class NotFound(ModelyardError):
    """What the request names does not exist."""

    code = Code.NOT_FOUND
    reason = "NOT_FOUND"
    on_failure = OnFailure.SURFACE


class ModelNotFound(NotFound):
    """No model has this name."""

    reason = "MODEL_NOT_FOUND"


class VersionNotFound(NotFound):
    """The model has no such version."""

    reason = "VERSION_NOT_FOUND"


class LabelNotFound(NotFound):
    """The model has no such label."""

    reason = "LABEL_NOT_FOUND"


class BlobNotFound(NotFound):
    """No file with this digest was uploaded."""

    reason = "BLOB_NOT_FOUND"


class EvaluationNotFound(NotFound):
    """There is no evaluation of this name."""

    reason = "EVALUATION_NOT_FOUND"


class AlreadyExists(ModelyardError):
    """What the request would make is there already."""

    code = Code.ALREADY_EXISTS
    reason = "ALREADY_EXISTS"
    on_failure = OnFailure.SURFACE


class FailedPrecondition(ModelyardError):
    """The yard is not in the state that the request needs."""

    code = Code.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"
    on_failure = OnFailure.SURFACE


class VersionNotServing(FailedPrecondition):
    """The version exists, and no host serves it now."""

    reason = "VERSION_NOT_SERVING"
    on_failure = OnFailure.FALL_BACK


class VersionInUse(FailedPrecondition):
    """A label or a route points at the version, or a host serves it."""

    reason = "VERSION_IN_USE"


class NoHistory(FailedPrecondition):
    """There is nothing to roll back to."""

    reason = "NO_HISTORY"


class SequenceLost(FailedPrecondition):
    """A sequence goes on whose beginning, or whose host, is not there."""

    reason = "SEQUENCE_LOST"


class Aborted(ModelyardError):
    """Another writer came first; read again and try again."""

    code = Code.ABORTED
    reason = "ABORTED"
    on_failure = OnFailure.SURFACE


class StaleEtag(Aborted):
    """The resource changed since its etag was read."""

    reason = "STALE_ETAG"


class OffsetMismatch(Aborted):
    """An upload goes on from another offset than the server holds."""

    reason = "OFFSET_MISMATCH"


class OutOfRange(ModelyardError):
    """A position beyond what exists."""

    code = Code.OUT_OF_RANGE
    reason = "OUT_OF_RANGE"
    on_failure = OnFailure.SURFACE


class Unavailable(ModelyardError):
    """Nothing was done; another try may succeed."""

    code = Code.UNAVAILABLE
    reason = "UNAVAILABLE"
    on_failure = OnFailure.RETRY


class HostGone(Unavailable):
    """The connection to the host failed before an answer came."""

    reason = "HOST_GONE"


class StoreUnavailable(Unavailable):
    """The store, or the registry in front of it, does not answer."""

    reason = "STORE_UNAVAILABLE"
    on_failure = OnFailure.SURFACE


class ResourceExhausted(ModelyardError):
    """A limit is reached."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "RESOURCE_EXHAUSTED"
    on_failure = OnFailure.SURFACE


class Overloaded(ResourceExhausted):
    """A queue is full; the call was not begun."""

    reason = "OVERLOADED"
    on_failure = OnFailure.FALL_BACK


class OverQuota(ResourceExhausted):
    """The caller used up its quota."""

    reason = "OVER_QUOTA"


class MessageTooLarge(ResourceExhausted):
    """A message is larger than the receiver accepts."""

    reason = "MESSAGE_TOO_LARGE"


class DeadlineExceeded(ModelyardError):
    """The time that the call was given is over."""

    code = Code.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"
    on_failure = OnFailure.FALL_BACK


class Cancelled(ModelyardError):
    """The caller gave up."""

    code = Code.CANCELLED
    reason = "CANCELLED"
    on_failure = OnFailure.SURFACE


class Unauthenticated(ModelyardError):
    """The caller did not say who it is."""

    code = Code.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"
    on_failure = OnFailure.SURFACE


class PermissionDenied(ModelyardError):
    """The caller may not do this."""

    code = Code.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"
    on_failure = OnFailure.SURFACE


class Unimplemented(ModelyardError):
    """This server does not have the method."""

    code = Code.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"
    on_failure = OnFailure.SURFACE


class Internal(ModelyardError):
    """A defect of ours; the text names only where to look it up."""

    code = Code.INTERNAL
    reason = "INTERNAL"


def _tree(root: type[ModelyardError]) -> Iterator[type[ModelyardError]]:
    for child in root.__subclasses__():
        yield child
        yield from _tree(child)


def all_errors() -> tuple[type[ModelyardError], ...]:
    """Every class of the tree below the root."""
    return tuple(_tree(ModelyardError))
