"""How an evaluation goes about it, checked. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from modelyard.errors import InvalidArgument
from services.shadow.comparators import Comparator
from services.shadow.losses import Loss
from services.shadow.slices import Slice
from services.shadow.verdict import Gate, Kind

DEFAULT_GATES = (
    Gate(Kind.DIFFERENCE, 0.02),
    Gate(Kind.ERRORS, 0.005),
    Gate(Kind.LATENCY, 1.2),
)
MOST_GATES, MOST_SLICES, MOST_CANDIDATES = 16, 16, 8


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the archive: from `start` on, before `end`."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Plan:
    """How an evaluation goes about it; `protos/modelyard/shadow/v1/evaluation.proto` says more."""

    sample: float = 1.0
    baseline_sample: float = 0.2
    gates: tuple[Gate, ...] = DEFAULT_GATES
    alpha: float = 0.05
    slices: tuple[Slice, ...] = ()
    comparators: Mapping[str, Comparator] = field(default_factory=dict)
    losses: Mapping[str, Loss] = field(default_factory=dict)
    max_events: int = 100_000
    max_time: timedelta = timedelta(days=7)
    concurrency: int = 1
    max_rate: float = 0.0
    canary: bool = False
    window: Window | None = None

    @property
    def labelled(self) -> bool:
        """Whether truths that come later are waited for."""
        return any(gate.kind is Kind.LOSS for gate in self.gates)

    @property
    def slice_gates(self) -> tuple[Gate, ...]:
        """The gates that are looked at on slices, too."""
        return tuple(g for g in self.gates if g.kind is not Kind.LATENCY)

    def check(self) -> None:
        """Raises InvalidArgument, naming the field, unless an evaluation can go by it."""
        _within("sample", self.sample, 0, 1, open_below=True)
        _within("baseline_sample", self.baseline_sample, 0, 1)
        _within("alpha", self.alpha, 0, 0.5, open_below=True)
        _within("max_events", self.max_events, 1, 10**9)
        _within("max_rate", self.max_rate, 0, 1e6)
        _within("concurrency", self.concurrency, 1, 64)
        if not timedelta() < self.max_time <= timedelta(days=3650):
            raise _invalid("max_time", f"{self.max_time}: above 0, at most ten years")
        if not 0 < len(self.gates) <= MOST_GATES:
            raise _invalid("gates", f"{len(self.gates)}: from 1 to {MOST_GATES}")
        if len(self.slices) > MOST_SLICES:
            raise _invalid("slices", f"{len(self.slices)}: at most {MOST_SLICES}")
        for index, gate in enumerate(self.gates):
            _check_gate(f"gates[{index}]", gate)
            if gate in self.gates[:index]:
                raise _invalid(f"gates[{index}]", f"{gate}: is there already")
        if self.baseline_sample == 0 and any(g.kind is Kind.LATENCY for g in self.gates):
            raise _invalid(
                "baseline_sample",
                "0: a gate on the latency compares with the baseline's in the shadow",
            )
        if self.window is not None and self.window.start >= self.window.end:
            raise _invalid("window", "ends before it starts")
        if self.window is not None and self.canary:
            raise _invalid("canary", "a back-test has an end")


def _check_gate(field: str, gate: Gate) -> None:
    match gate.kind:
        case Kind.LATENCY:
            _within(f"{field}.margin", gate.margin, 0, 1000, open_below=True)
            _within(f"{field}.quantile", gate.quantile, 0.01, 0.999)
            if gate.output:
                raise _invalid(f"{field}.output", "the latency is of no output")
        case Kind.LOSS:
            _within(f"{field}.margin", gate.margin, -1, 1)
        case _:
            _within(f"{field}.margin", gate.margin, 0, 1)
    if gate.kind is Kind.ERRORS and gate.output:
        raise _invalid(f"{field}.output", "failures are of no output")


def _within(
    field: str, value: float, least: float, most: float, *, open_below: bool = False
) -> None:
    above = value > least if open_below else value >= least
    if not (math.isfinite(value) and above and value <= most):
        lower = "above" if open_below else "from"
        raise _invalid(field, f"{value:g}: {lower} {least:g}, at most {most:g}")


def _invalid(field: str, fault: str) -> InvalidArgument:
    return InvalidArgument(f"plan.{field} {fault}", field=f"plan.{field}")
