"""The metrics of several processes as those of one. Prometheus' text form in, families out."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

# A gauge is a sum over the processes, but for these.
_GREATEST: Final = frozenset(
    {
        *("modelyard_circuit_open", "modelyard_replica_lane"),
        *("process_max_fds", "python_info"),
    }
)
_LEAST: Final = frozenset({"process_start_time_seconds"})

Labels: TypeAlias = tuple[tuple[str, str], ...]
Sample: TypeAlias = tuple[str, Labels]


@dataclass(slots=True)
class Family:
    """A metric of several processes.

    Attributes:
        name: Without the ending of a counter.
        documentation: As people read it.
        kind: Prometheus' type.
        values: By sample.
    """

    name: str
    documentation: str
    kind: str
    values: dict[Sample, float]

    @property
    def grows(self) -> bool:
        """Whether it counts, and so never falls."""
        return self.kind != "gauge"

    def add(self, other: "Family") -> None:
        """Takes the values of another process in."""
        join = _joining(self.name)
        for sample, value in other.values.items():
            known = self.values.get(sample)
            self.values[sample] = value if known is None else join(known, value)

    def metric(self) -> Metric:
        """As Prometheus' client has it."""
        metric = Metric(self.name, self.documentation, self.kind)
        for (name, labels), value in self.values.items():
            metric.add_sample(name, dict(labels), value)
        return metric


def _joining(name: str) -> Callable[[float, float], float]:
    if name in _GREATEST:
        return max
    if name in _LEAST or name.endswith("_created"):
        return min
    return float.__add__


def families(text: str) -> dict[str, Family]:
    """What one process tells, by name."""
    return {
        metric.name: Family(
            metric.name,
            metric.documentation,
            metric.type,
            {(s.name, tuple(sorted(s.labels.items()))): s.value for s in metric.samples},
        )
        for metric in text_string_to_metric_families(text)
    }


def merged(many: Iterable[dict[str, Family]]) -> dict[str, Family]:
    """Several processes as one."""
    whole: dict[str, Family] = {}
    for one in many:
        for name, family in one.items():
            known = whole.setdefault(
                name, Family(family.name, family.documentation, family.kind, {})
            )
            known.add(family)
    return whole


class Ledger:
    """Adds up the workers, so that no counter falls when one of them is started again.

    What a process that ended had counted when it was last heard stays in the sums. Counters that
    fell would be read as a restart of all, and every call would be counted twice.
    """

    def __init__(self) -> None:
        self._ended: dict[str, Family] = {}
        self._last: dict[int, tuple[str, dict[str, Family]]] = {}

    def hear(self, index: int, process: str, text: str) -> None:
        """Takes in what a worker tells."""
        known = self._last.get(index)
        if known is not None and known[0] != process:
            self._ended = merged((self._ended, _growing(known[1])))
        self._last[index] = (process, families(text))

    def whole(self, heard: Iterable[int]) -> Iterator[Metric]:
        """The sums; of workers that were not heard now only what they had counted before."""
        now = set(heard)
        parts = [
            held if index in now else _growing(held) for index, (_, held) in self._last.items()
        ]
        for family in merged((self._ended, *parts)).values():
            yield family.metric()


def _growing(held: dict[str, Family]) -> dict[str, Family]:
    return {name: family for name, family in held.items() if family.grows}


# The index of each worker that answers, its process, and its text.
Told: TypeAlias = list[tuple[int, str, str]]
_PATIENCE: Final = 5.0


class Merged(Collector):
    """What Prometheus reads of the parent. Asked in a thread of the server of metrics.

    Args:
        ask: Asks every worker, on the loop.
        loop: The parent's.
    """

    def __init__(
        self, ask: Callable[[], Coroutine[Any, Any, Told]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._ask = ask
        self._loop = loop
        self._ledger = Ledger()
        # Of two scrapes at a time the one that asked last must not be heard first.
        self._turn = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        with self._turn:
            asked: Future[Told] = asyncio.run_coroutine_threadsafe(self._ask(), self._loop)
            told = asked.result(_PATIENCE)
            for index, process, text in told:
                self._ledger.hear(index, process, text)
            whole = list(self._ledger.whole(index for index, _, _ in told))
        yield from whole
