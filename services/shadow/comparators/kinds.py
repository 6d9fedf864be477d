"""The kinds of comparators, and their settings."""

import math
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import kendalltau

from modelyard.errors import InvalidArgument
from services.shadow.comparators.reservoir import Reservoir

Array: TypeAlias = NDArray[Any]
Rows: TypeAlias = NDArray[np.float64]

# Longer texts are compared as far as this, which bounds what one comparison costs.
_LONGEST_TEXT = 2000


class Comparator(Protocol):
    """Compares two answers that have the same type and shape."""

    @property
    def kind(self) -> str:
        """Its name."""
        ...

    def rows(self, baseline: Array, candidate: Array) -> Rows:
        """The difference of each row, 0 to 1; both of shape [rows, ...]."""
        ...


def compare(comparator: Comparator, baseline: Array, candidate: Array | None) -> Rows:
    """The difference of each row of the baseline's answer.

    An output that is not there, or has another type or shape, differs wholly.
    """
    count = len(baseline) if baseline.ndim else 1
    if (
        candidate is None
        or baseline.shape != candidate.shape
        or baseline.dtype.kind != candidate.dtype.kind
    ):
        return np.ones(count)
    if not count or not baseline.size:
        return np.zeros(count)
    if not baseline.ndim:
        baseline, candidate = baseline.reshape(1), candidate.reshape(1)
    found = comparator.rows(baseline, candidate)
    # A distance that is not a number says that the two have nothing in common.
    return np.asarray(np.clip(np.nan_to_num(found, nan=1.0), 0.0, 1.0))


class _Kind(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Exact(_Kind):
    """Rows are the same in every element, or they differ. A NaN equals a NaN."""

    kind: Literal["exact"] = "exact"

    def rows(self, baseline: Array, candidate: Array) -> Rows:
        """See `Comparator.rows`."""
        return _any(~_equal(baseline, candidate))


class Numeric(_Kind):
    """Numbers are the same within a tolerance: absolute, and relative to the baseline's.

    With `ulp`, also within so many units in the last place. A row differs where one of its
    elements does; with `per: element`, by the share of them.
    """

    kind: Literal["numeric"] = "numeric"
    absolute: Annotated[float, Field(ge=0)] = 1e-5
    relative: Annotated[float, Field(ge=0)] = 1e-3
    ulp: Annotated[int, Field(ge=0)] = 0
    per: Literal["row", "element"] = "row"

    def rows(self, baseline: Array, candidate: Array) -> Rows:
        """See `Comparator.rows`."""
        one, other = baseline.astype(np.float64), candidate.astype(np.float64)
        with np.errstate(invalid="ignore"):
            near = np.abs(one - other) <= self.absolute + self.relative * np.abs(one)
        near |= _equal(one, other)
        if self.ulp and baseline.dtype.kind == "f":
            near |= np.abs(one - other) <= self.ulp * np.spacing(np.abs(baseline))
        return _any(~near) if self.per == "row" else _mean(~near)


class TopK(_Kind):
    """The k best of a row of scores: the share of the baseline's that are not the candidate's.

    Of equal scores the first is the better one, in both.
    """

    kind: Literal["top_k"] = "top_k"
    k: Annotated[int, Field(ge=1)] = 1

    def rows(self, baseline: Array, candidate: Array) -> Rows:
        """See `Comparator.rows`."""
        one, other = _flat(baseline), _flat(candidate)
        k = min(self.k, one.shape[1])
        best = np.argsort(-one, axis=1, kind="stable")[:, :k]
        theirs = np.argsort(-other, axis=1, kind="stable")[:, :k]
        shared = [len(np.intersect1d(a, b)) for a, b in zip(best, theirs, strict=True)]
        return np.asarray(1.0 - np.asarray(shared, np.float64) / k)


class Probabilities(_Kind):
    """A distance of two distributions over the last dimension, 0 to 1; the mean over the others.

    The Jensen-Shannon distance with logarithms to base 2 (Endres and Schindelin, 2003), or
    Hellinger's. What does not sum to 1 is made to; `logits` go through a softmax first.
    """

    kind: Literal["probabilities"] = "probabilities"
    distance: Literal["js", "hellinger"] = "js"
    logits: bool = False

    def rows(self, baseline: Array, candidate: Array) -> Rows:
        """See `Comparator.rows`."""
        one, other = self._distributions(baseline), self._distributions(candidate)
        found: Array
        if self.distance == "js":
            # Rounding makes the divergence of equal distributions negative, and its root NaN.
            with np.errstate(invalid="ignore"):
                found = jensenshannon(one, other, base=2.0, axis=-1)
            same = np.all(np.isclose(one, other, rtol=1e-9, atol=0.0), axis=-1)
            found = np.where(same, 0.0, found)
        else:
            found = np.sqrt(np.sum((np.sqrt(one) - np.sqrt(other)) ** 2, axis=-1) / 2)
        return _mean(np.asarray(found))

    def _distributions(self, array: Array) -> Array:
        values = array.astype(np.float64)
        if values.ndim == 1:
            # One number a row: that of the positive class.
            values = np.stack([1.0 - values, values], axis=-1)
        if self.logits:
            values = softmax(values, axis=-1)
        values = np.clip(values, 0.0, None)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(values / values.sum(axis=-1, keepdims=True))


class Ranking(_Kind):
    """How differently a row's scores order its items: (1 - Kendall's tau-b) / 2."""

    kind: Literal["ranking"] = "ranking"

    def rows(self, baseline: Array, candidate: Array) -> Rows:
        """See `Comparator.rows`."""
        pairs = zip(_flat(baseline), _flat(candidate), strict=True)
        return np.asarray([self._row(one, other) for one, other in pairs])

    @staticmethod
    def _row(one: Array, other: Array) -> float:
        if np.array_equal(one, other):
            return 0.0
        tau = float(kendalltau(one, other).statistic)
        # A row in which all are equal has no order that could be kept or lost.
        return 0.5 if math.isnan(tau) else (1.0 - tau) / 2.0


class Embedding(_Kind):
    """The angle between two vectors: (1 - cosine) / 2."""

    kind: Literal["embedding"] = "embedding"

    def rows(self, baseline: Array, candidate: Array) -> Rows:
        """See `Comparator.rows`."""
        one, other = _flat(baseline), _flat(candidate)
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = np.sum(one * other, axis=1) / norms
        both_zero = np.all(one == 0, axis=1) & np.all(other == 0, axis=1)
        return np.asarray(np.where(both_zero, 0.0, (1.0 - cosine) / 2.0))


class Text(_Kind):
    """Texts: the same or not, or by how much of them has to be changed.

    `ratio` is 1 less Ratcliff and Obershelp's similarity, as `difflib` has it.
    """

    kind: Literal["text"] = "text"
    by: Literal["exact", "ratio"] = "exact"
    ignore_case: bool = False
    ignore_space: bool = False

    def rows(self, baseline: Array, candidate: Array) -> Rows:
        """See `Comparator.rows`."""
        one, other = _rows_of(baseline), _rows_of(candidate)
        return np.asarray(
            [
                float(np.mean([self._text(a, b) for a, b in zip(left, right, strict=True)]))
                for left, right in zip(one, other, strict=True)
            ]
        )

    def _text(self, one: object, other: object) -> float:
        left, right = self._folded(one), self._folded(other)
        if left == right:
            return 0.0
        if self.by == "exact":
            return 1.0
        shortened = left[:_LONGEST_TEXT], right[:_LONGEST_TEXT]
        return 1.0 - SequenceMatcher(None, *shortened, autojunk=False).ratio()

    def _folded(self, element: object) -> str:
        text = element.decode(errors="replace") if isinstance(element, bytes) else str(element)
        text = " ".join(text.split()) if self.ignore_space else text
        return text.casefold() if self.ignore_case else text


class Quantile(_Kind):
    """Scores that are not calibrated: by their rank among their own version's scores.

    What a Q-Q plot shows: two versions on different scales that order requests alike have no
    difference. The ranks are those among what came before, so the first requests count nothing.
    """

    kind: Literal["quantile"] = "quantile"
    warm_up: Annotated[int, Field(ge=1)] = 50

    def rows(self, baseline: Array, candidate: Array) -> Rows:
        """Of scores alone there is no rank: see `ranked`."""
        return np.zeros(len(baseline))

    def ranked(self, baseline: Array, candidate: Array, ours: Reservoir, theirs: Reservoir) -> Rows:
        """The mean distance of the ranks in each row, among the scores before them."""
        if min(ours.count, theirs.count) < self.warm_up:
            return np.zeros(len(baseline))
        one = np.vectorize(ours.rank, otypes=[float])(baseline)
        other = np.vectorize(theirs.rank, otypes=[float])(candidate)
        return _mean(np.abs(one - other))


Kind: TypeAlias = Annotated[
    Exact | Numeric | TopK | Probabilities | Ranking | Embedding | Text | Quantile,
    Field(discriminator="kind"),
]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(Kind)


def parse(output: str, tree: Mapping[str, Any]) -> Comparator:
    """A comparator by its kind and settings, such as `{"kind": "top_k", "k": 5}`.

    Raises:
        InvalidArgument: There is no such kind or setting, or a value does not fit; named.
    """
    try:
        made: Comparator = _ADAPTER.validate_python(dict(tree))
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"][1:]) or "kind"
        raise InvalidArgument(
            f"comparators.{output}.{field}: {fault['msg']}, not {fault['input']!r}",
            field=f"comparators.{output}.{field}",
        ) from None
    return made


def _equal(one: Array, other: Array) -> NDArray[np.bool_]:
    same = np.asarray(one == other, dtype=bool)
    if one.dtype.kind in "fc":
        same |= np.isnan(one) & np.isnan(other)
    return same


def _flat(array: Array) -> NDArray[np.float64]:
    return array.astype(np.float64).reshape(len(array), -1)


def _rows_of(array: Array) -> Array:
    return array.reshape(len(array), -1)


def _any(differs: NDArray[np.bool_]) -> Rows:
    return np.asarray(differs.reshape(len(differs), -1).any(axis=1), np.float64)


def _mean(values: Array) -> Rows:
    return np.asarray(np.asarray(values, np.float64).reshape(len(values), -1).mean(axis=1))
