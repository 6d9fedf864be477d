"""Resident memory on the way through a campaign."""

import gc
import sys
from collections.abc import Sequence
from typing import Protocol

import psutil


class Progress(Protocol):
    """How far a campaign is."""

    @property
    def mutated(self) -> int:
        """What was sent so far."""
        ...


class Scale:
    """Weighs processes together at every tenth of the way.

    Args:
        processes: Which.
        found: How far it is.
        whole: Of how many.
    """

    def __init__(self, processes: Sequence[psutil.Process], found: Progress, whole: int) -> None:
        self.mib: list[float] = []
        self._processes, self._found, self._whole = processes, found, whole

    def __call__(self) -> None:
        """Weighs, where it is time."""
        if self._found.mutated >= self._whole * len(self.mib) / 10:
            gc.collect()
            weights = sum(process.memory_info().rss for process in self._processes)
            self.mib.append(round(weights / 2**20, 1))
            print(f"{self._found.mutated:,}: {self.mib[-1]} MiB", file=sys.stderr, flush=True)
