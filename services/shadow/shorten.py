"""Tensors as short JSON, for people who look at a disagreement. Pure."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.shadow.observation import Arrays

# Elements of a tensor, and characters of all of them.
_ELEMENTS, _LONGEST = 64, 2000


def shorten(arrays: Arrays | None) -> str:
    """Arrays by name as JSON: the first elements of each, `...` where there are more."""
    if arrays is None:
        return ""
    text = json.dumps({name: _short(array) for name, array in arrays.items()}, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _short(array: NDArray[Any]) -> Any:
    if array.size <= _ELEMENTS:
        return _plain(array.tolist())
    flat: list[Any] = _plain(array.reshape(-1)[:_ELEMENTS].tolist())
    return [*flat, f"... {array.size} elements of {'x'.join(map(str, array.shape))}"]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(element) for element in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float):
        # JSON has no NaN and no infinity.
        return float(f"{value:.6g}") if np.isfinite(value) else str(value)
    return value
