"""Which comparator an output gets where nobody says: by type, shape, name, and a first answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.catalog import Tensor
from services.shadow.comparators.kinds import (
    Comparator,
    Embedding,
    Exact,
    Numeric,
    Probabilities,
    Text,
    TopK,
)

_FLOATS = frozenset({"FP16", "FP32", "FP64", "BF16"})
# A vector of fewer is hardly an embedding, whatever its length is.
_LEAST_EMBEDDING = 16


@dataclass(frozen=True, slots=True)
class Chosen:
    """A comparator, and why it was chosen."""

    comparator: Comparator
    why: str


def choose(output: Tensor) -> Chosen:
    """By what the signature says of an output."""
    name = output.name.lower()
    if output.datatype == "BYTES":
        return Chosen(Text(), "texts")
    if output.datatype not in _FLOATS:
        return Chosen(Exact(), "whole numbers")
    if "prob" in name:
        return Chosen(Probabilities(), "its name speaks of probabilities")
    wide = len(output.shape) >= 2 and output.shape[-1] != 1
    if "embed" in name and wide:
        return Chosen(Embedding(), "its name speaks of an embedding")
    if "logit" in name and wide:
        return Chosen(Probabilities(logits=True), "its name speaks of logits")
    if "score" in name and wide:
        return Chosen(TopK(), "its name speaks of scores")
    return Chosen(Numeric(), "numbers")


def refine(chosen: Chosen, sample: NDArray[Any]) -> Chosen:
    """By a first answer, where the signature left it at numbers."""
    if not isinstance(chosen.comparator, Numeric) or chosen.why != "numbers":
        return chosen
    values = np.asarray(sample, np.float64)
    if values.ndim < 2 or values.shape[-1] < 2 or not values.size or not np.isfinite(values).all():
        return chosen
    if (values >= 0).all() and np.allclose(values.sum(axis=-1), 1.0, atol=1e-3):
        return Chosen(Probabilities(), "its rows are distributions")
    norms = np.linalg.norm(values, axis=-1)
    if values.shape[-1] >= _LEAST_EMBEDDING and np.allclose(norms, 1.0, atol=1e-3):
        return Chosen(Embedding(), "its rows are vectors of length 1")
    return chosen


def chosen_for(outputs: Mapping[str, Tensor], told: Mapping[str, Comparator]) -> dict[str, Chosen]:
    """For each output what was told, else what `choose` says."""
    return {
        name: Chosen(told[name], "as asked") if name in told else choose(tensor)
        for name, tensor in outputs.items()
    }
