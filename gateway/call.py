"""What goes through the gateway, whatever carried it in and whatever carries it on.

A front makes a `Call`; the stack answers it; lanes are `Endpoint`s. None of them knows grpc.
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from gateway.limits import Priority
from gateway.plan import Kind
from gateway.sequences import Sequence
from modelyard.metadata import PRIORITY
from modelyard.names import ModelName, VersionName

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

INFER = "ModelInfer"

# Who answers: a version, or for a model no version of it.
Answerer: TypeAlias = VersionName | ModelName


@dataclass(slots=True)
class Made:
    """An attempt that was made of a recorded call. Times are on the gateway's clock.

    Attributes:
        version: What was asked.
        kind: Why.
        began: When.
        host: Who was asked; "" where none could be.
        ended: When it was over; None while it is not.
        outcome: `answered`, `failed`, `cancelled`, or "" while it is not over.
        error: The reason of its failure.
    """

    version: VersionName
    kind: Kind
    began: float
    host: str = ""
    ended: float | None = None
    outcome: str = ""
    error: str = ""


@dataclass(slots=True)
class Call:
    """One inference call.

    Attributes:
        model: The model's name.
        selector: A version number, a label, or nothing: the route decides.
        payload: The serialized request, never decoded here.
        deadline: On the gateway's clock, in seconds; None until the stack gives one.
        request_id: The caller's, or one that the front made.
        metadata: What the caller sent and hosts should see.
        sequence: What the call says of the sequence that it belongs to; None for none.
        target: The version that the route chose; None before it did.
        host: Where a sequence lives; "" for any host.
        trail: The attempts that were made, for a call that is recorded; None for any other.
    """

    model: str
    selector: str
    payload: bytes
    deadline: float | None
    request_id: str
    metadata: Metadata = ()
    sequence: Sequence | None = None
    target: VersionName | None = None
    host: str = ""
    trail: list[Made] | None = None

    @property
    def priority(self) -> Priority:
        """How important the call is; looked for only where something must wait."""
        for key, value in self.metadata:
            if key == PRIORITY and isinstance(value, str):
                return Priority.__members__.get(value.upper(), Priority.DEFAULT)
        return Priority.DEFAULT


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, and who gave it.

    Attributes:
        payload: The serialized response.
        served_by: The version that answered; the model for a constant of its route.
        attempt: What sort of attempt brought the answer.
        attempts: How many were started, the winner included.
        host: The host that answered; "" for none.
    """

    payload: bytes
    served_by: Answerer
    attempt: Kind
    attempts: int = 1
    host: str = ""


class Endpoint(Protocol):
    """Something that answers calls: a host over one lane."""

    @property
    def lane(self) -> str:
        """Which lane the next call takes, such as `grpc`."""
        ...

    async def call(self, method: str, payload: bytes, metadata: Metadata, timeout: float) -> bytes:
        """Sends one request and gives the serialized response.

        Cancelling the awaiting task cancels the request at the other end.

        Args:
            method: The bare name of an RPC of the public protocol, such as `ModelInfer`.
            payload: The serialized request.
            metadata: Sent along.
            timeout: In seconds; carried on as the call's deadline.

        Raises:
            HostGone: The connection failed; nothing is known of the request.
            DeadlineExceeded: No answer came in time.
            ModelyardError: What the host answered.
        """
        ...

    async def close(self) -> None:
        """Closes the connection; calls under way end in HostGone."""
        ...
