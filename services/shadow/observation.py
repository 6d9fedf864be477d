"""One request, and what everyone answered to it. Values, free of grpc and protobuf."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from numpy.typing import NDArray

Arrays: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a version answered in the shadow.

    Attributes:
        seconds: How long it took.
        outputs: By name; None where it failed.
        error: The reason of its failure; "" where it answered.
        raw: The serialized answer.
    """

    seconds: float
    outputs: Arrays | None = None
    error: str = ""
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Observation:
    """One request.

    Attributes:
        request_id: Of the request.
        time: When it arrived.
        metadata: Texts that its caller sent.
        inputs: By name.
        baseline: What the baseline answered live, by name; None where another one answered.
        live_seconds: How long the live answer took.
        candidates: What each candidate answered, by its number.
        repeat: What the baseline answered when it was asked again; None where it was not.
        rows: Of the request.
        answer: The serialized live answer.
    """

    request_id: str
    time: datetime
    metadata: Mapping[str, str]
    inputs: Arrays
    baseline: Arrays | None
    live_seconds: float
    candidates: Mapping[int, Reply]
    repeat: Reply | None = None
    rows: int = 1
    answer: bytes = b""


def rows_of(inputs: Arrays) -> int:
    """The rows of a request: the first dimension of its first input; 1 where that has none."""
    for array in inputs.values():
        return len(array) if array.ndim else 1
    return 1
