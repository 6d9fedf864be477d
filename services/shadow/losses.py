"""How wrong an output was, once the truth is known: 0 to 1. Pure."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from modelyard.catalog import Tensor
from modelyard.errors import InvalidArgument

_FLOATS = frozenset({"FP16", "FP32", "FP64", "BF16"})
Truth: TypeAlias = bool | float | str | list[Any] | None


class Loss(Protocol):
    """Judges one row."""

    @property
    def kind(self) -> str:
        """Its name."""
        ...

    def row(self, output: NDArray[Any], truth: Truth) -> float:
        """How wrong a row is, 0 to 1; ValueError or TypeError where the truth does not fit it."""
        ...


class _Kind(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ZeroOne(_Kind):
    """Right or wrong."""

    kind: Literal["zero_one"] = "zero_one"

    def row(self, output: NDArray[Any], truth: Truth) -> float:
        """See `Loss.row`."""
        held = [_plain(element) for element in output.reshape(-1)]
        expected = _plain(truth) if not isinstance(truth, list) else [_plain(t) for t in truth]
        return float(held != expected if isinstance(expected, list) else held != [expected])


class Brier(_Kind):
    """Half of the squared distance to the distribution that is sure of the true class.

    The truth is the index of the class, or for one output a row, 1 for the positive class.
    """

    kind: Literal["brier"] = "brier"

    def row(self, output: NDArray[Any], truth: Truth) -> float:
        """See `Loss.row`."""
        if isinstance(truth, str | list) or truth is None:
            raise ValueError("not the index of a class")
        given = np.asarray(output, np.float64).reshape(-1)
        if given.size == 1:
            return float(min((given[0] - float(truth)) ** 2, 1.0))
        index = int(truth)
        if not 0 <= index < given.size:
            raise ValueError("there is no such class")
        sure = np.zeros_like(given)
        sure[index] = 1.0
        return float(min(np.sum((given - sure) ** 2) / 2, 1.0))


class Absolute(_Kind):
    """The mean distance, as a share of `scale`, at most 1."""

    kind: Literal["absolute"] = "absolute"
    scale: Annotated[float, Field(gt=0)] = 1.0

    def row(self, output: NDArray[Any], truth: Truth) -> float:
        """See `Loss.row`."""
        distances = np.abs(np.asarray(output, np.float64).reshape(-1) - _numbers(truth))
        return float(np.mean(np.minimum(np.nan_to_num(distances, nan=np.inf) / self.scale, 1.0)))


class Squared(_Kind):
    """The mean squared distance, as a share of `scale` squared, at most 1."""

    kind: Literal["squared"] = "squared"
    scale: Annotated[float, Field(gt=0)] = 1.0

    def row(self, output: NDArray[Any], truth: Truth) -> float:
        """See `Loss.row`."""
        distances = np.abs(np.asarray(output, np.float64).reshape(-1) - _numbers(truth))
        shares = np.nan_to_num(distances, nan=np.inf) / self.scale
        return float(np.mean(np.minimum(shares, 1.0) ** 2))


_ADAPTER: TypeAdapter[Any] = TypeAdapter(
    Annotated[ZeroOne | Brier | Absolute | Squared, Field(discriminator="kind")]
)


def parse(output: str, tree: Mapping[str, Any]) -> Loss:
    """A loss by its kind and settings; raises InvalidArgument, naming the field."""
    try:
        made: Loss = _ADAPTER.validate_python(dict(tree))
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"][1:]) or "kind"
        raise InvalidArgument(
            f"losses.{output}.{field}: {fault['msg']}, not {fault['input']!r}",
            field=f"losses.{output}.{field}",
        ) from None
    return made


def choose(output: Tensor) -> Loss:
    """By what the signature says of an output."""
    if output.datatype not in _FLOATS:
        return ZeroOne()
    if "prob" in output.name.lower():
        return Brier()
    return Absolute()


def judge(loss: Loss, output: NDArray[Any], truths: Sequence[Truth]) -> list[float | None]:
    """How wrong each row is; None for a row whose truth is not known or does not fit."""
    found: list[float | None] = []
    for index in range(len(output) if output.ndim else 1):
        truth = truths[index] if index < len(truths) else None
        if truth is None:
            found.append(None)
            continue
        try:
            found.append(loss.row(output[index : index + 1] if output.ndim else output, truth))
        except (ValueError, TypeError):
            found.append(None)
    return found


def _plain(value: Any) -> bool | float | str:
    """A value as JSON has it, so that 7 and 7.0 and b"7" as text compare as people mean it."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.generic):
        value = value.item()
    return float(value) if isinstance(value, int | float) else str(value)


def _numbers(truth: Truth) -> NDArray[np.float64]:
    return np.asarray(truth, np.float64).reshape(-1)
