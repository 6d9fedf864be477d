"""Parts of the traffic that are looked at for themselves. Pure.

A slice is told as a text:

- `metadata:KEY`: by the value of a metadata key.
- `input:NAME`, `input:NAME[3]`: by the value of an input, or of one of its columns, in each row.
- `input:NAME@18,30,65`: the same, in buckets with these edges.
- `output:NAME`: by the value of an output of the baseline, in each row.
- `rows`: by how many rows a request has, in powers of two.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.errors import InvalidArgument

# Values of one slice that are told apart; the rest are one.
MOST_VALUES = 20
OTHER = "(other)"
_SPEC = re.compile(r"(input|output):([^@\[\]]+)(?:\[(\d+)\])?(?:@(.+))?")
_LONGEST = 64


@dataclass(frozen=True, slots=True)
class Slice:
    """How the traffic is parted.

    Attributes:
        text: As it was told.
        by: `metadata`, `input`, `output` or `rows`.
        name: Of the key or the tensor.
        column: Of the tensor; None for one that has one column.
        edges: Of the buckets; none for values as they are.
    """

    text: str
    by: str
    name: str = ""
    column: int | None = None
    edges: tuple[float, ...] = ()

    def values(
        self,
        metadata: Mapping[str, str],
        inputs: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, NDArray[Any]],
        rows: int,
    ) -> list[str | None]:
        """The part that each row lies in; None for a row without such a value."""
        match self.by:
            case "metadata":
                value = metadata.get(self.name)
                return [None if value is None else value[:_LONGEST]] * rows
            case "rows":
                least = 1 << (max(rows, 1).bit_length() - 1)
                text = "1" if least == 1 else f"{least}-{2 * least - 1}"
                return [text] * rows
        tensor = (inputs if self.by == "input" else outputs).get(self.name)
        if tensor is None or not tensor.ndim or len(tensor) != rows:
            return [None] * rows
        columns = tensor.reshape(rows, -1)
        at = 0 if self.column is None else self.column
        if columns.shape[1] <= at or (self.column is None and columns.shape[1] != 1):
            return [None] * rows
        return [self._part(element) for element in columns[:, at]]

    def _part(self, element: Any) -> str | None:
        if not self.edges:
            if isinstance(element, bytes):
                return element.decode(errors="replace")[:_LONGEST]
            if isinstance(element, np.floating):
                return f"{float(element):g}"
            return str(element)[:_LONGEST]
        try:
            number = float(element)
        except (TypeError, ValueError):
            return None
        if number != number:
            return None
        index = bisect_right(self.edges, number)
        if index == 0:
            return f"< {self.edges[0]:g}"
        if index == len(self.edges):
            return f">= {self.edges[-1]:g}"
        return f"[{self.edges[index - 1]:g}, {self.edges[index]:g})"


def parse(text: str) -> Slice:
    """Reads a slice; raises InvalidArgument."""
    if text == "rows":
        return Slice(text, "rows")
    if text.startswith("metadata:") and text != "metadata:":
        return Slice(text, "metadata", text.removeprefix("metadata:").lower())
    match = _SPEC.fullmatch(text)
    if match is None:
        raise InvalidArgument(
            f"slices: {text!r} is none of metadata:KEY, input:NAME[COLUMN]@EDGES,"
            " output:NAME[COLUMN]@EDGES, rows",
            field="slices",
        )
    by, name, column, edges = match.groups()
    return Slice(text, by, name, None if column is None else int(column), _edges(text, edges))


def _edges(text: str, edges: str | None) -> tuple[float, ...]:
    if edges is None:
        return ()
    try:
        found = tuple(float(edge) for edge in edges.split(","))
    except ValueError:
        found = ()
    if not found or list(found) != sorted(set(found)) or not np.isfinite(found).all():
        raise InvalidArgument(f"slices: {text!r}: the edges are numbers, ascending", field="slices")
    return found


class Parts:
    """The parts of each slice that have shown up, in their order: so many, the rest as one."""

    def __init__(self, known: Sequence[tuple[str, str]] = ()) -> None:
        self._order: dict[tuple[str, str], int] = {}
        self._counts: dict[str, int] = {}
        for slice_text, value in known:
            self.order(slice_text, value)

    def order(self, slice_text: str, value: str) -> tuple[str, int]:
        """The part that a value belongs to, and the how-manieth part of all it is."""
        key = (slice_text, value)
        order = self._order.get(key)
        if order is None:
            if self._counts.get(slice_text, 0) >= MOST_VALUES:
                value = OTHER
                key = (slice_text, OTHER)
            order = self._order.get(key)
            if order is None:
                order = self._order[key] = len(self._order) + 1
                self._counts[slice_text] = self._counts.get(slice_text, 0) + 1
        return value, order

    @property
    def known(self) -> list[tuple[str, str]]:
        """All parts, in the order in which they showed up."""
        return list(self._order)
