"""What a model takes and gives, and the check of a request against it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from modelyard.errors import InvalidTensor
from services.inference.host.tensors import DTYPES, Slot

# A fixed size, a symbol that means one size throughout a request, or any size.
Dimension = int | str | None

# One input as a request names it: name, datatype, shape.
Head = tuple[str, str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output.

    Attributes:
        name: As the model names it.
        datatype: As the protocol names it, such as `FP32`.
        shape: Empty for a scalar, and where the model does not say a rank:
            onnxruntime tells the two not apart.
        optional: The model has a value of its own for this input.
    """

    name: str
    datatype: str
    shape: tuple[Dimension, ...]
    optional: bool = False

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape as the protocol tells it: -1 where any size is accepted."""
        return tuple(d if isinstance(d, int) else -1 for d in self.shape)


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of one version, in the model's order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    _required: frozenset[str] = field(init=False, repr=False, compare=False)
    _by_name: dict[str, Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        required = frozenset(t.name for t in self.inputs if not t.optional)
        object.__setattr__(self, "_required", required)
        object.__setattr__(self, "_by_name", {t.name: t for t in self.inputs})

    @property
    def batch_symbol(self) -> str | None:
        """The symbol that leads every shape of the model, where there is one."""
        leads = {t.shape[0] if t.shape else None for t in (*self.inputs, *self.outputs)}
        lead = leads.pop() if len(leads) == 1 else None
        return lead if isinstance(lead, str) else None

    def check(self, model: str, heads: Sequence[Head]) -> tuple[Slot, ...]:
        """Where each input of a request goes.

        Args:
            model: The model's name, for the texts of errors.
            heads: Name, datatype and shape of each input, in the request's order.

        Raises:
            InvalidTensor: A name is unknown, missing or given twice, or a datatype or a
                shape does not fit.
        """
        names = {name for name, _, _ in heads}
        for name, _, _ in heads:
            if name not in self._by_name:
                raise InvalidTensor(
                    f"unexpected inference input '{name}' for model '{model}'", input=name
                )
        if len(names) != len(heads) or not self._required <= names:
            missing = ", ".join(repr(name) for name in sorted(self._required - names))
            raise InvalidTensor(
                f"expected {len(self._required)} inputs but got {len(heads)} inputs"
                f" for model '{model}'" + (f"; missing {missing}" if missing else "")
            )
        symbols: dict[str, int] = {}
        return tuple(self._slot(model, head, symbols) for head in heads)

    def _slot(self, model: str, head: Head, symbols: dict[str, int]) -> Slot:
        name, datatype, shape = head
        tensor = self._by_name[name]
        if datatype not in DTYPES:
            raise InvalidTensor(
                f"unknown datatype '{datatype}' for input '{name}' for model '{model}'", input=name
            )
        if datatype != tensor.datatype:
            raise InvalidTensor(
                f"unexpected datatype '{datatype}' for input '{name}' for model '{model}',"
                f" expected '{tensor.datatype}'",
                input=name,
            )
        if not _fits(tensor.shape, shape, symbols):
            expected = [symbols.get(d, -1) if isinstance(d, str) else d for d in tensor.shape]
            raise InvalidTensor(
                f"unexpected shape for input '{name}' for model '{model}'."
                f" Expected {_text(expected)}, got {_text(shape)}.",
                input=name,
            )
        return Slot(name, model, datatype, shape)


def _text(shape: Sequence[int | None]) -> str:
    return "[" + ",".join("-1" if d is None else str(d) for d in shape) + "]"


def _fits(expected: tuple[Dimension, ...], got: tuple[int, ...], symbols: dict[str, int]) -> bool:
    if any(d < 0 for d in got):
        return False
    if not expected:
        return True
    if len(expected) != len(got):
        return False
    for want, have in zip(expected, got, strict=True):
        if isinstance(want, str):
            if symbols.setdefault(want, have) != have:
                return False
        elif want is not None and want != have:
            return False
    return True
