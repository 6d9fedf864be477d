"""What an evaluation has learnt of one candidate: one observation after the other. Pure.

All of it is in `state`, so that a service that was killed goes on as if nothing had happened.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from services.shadow.comparators import Chosen, Reservoir, parse, refine
from services.shadow.comparators.kinds import Quantile, Rows, compare
from services.shadow.losses import Loss, Truth, judge
from services.shadow.observation import Arrays, Observation
from services.shadow.plan import Plan
from services.shadow.shorten import shorten
from services.shadow.slices import Parts
from services.shadow.statistics import Latencies, Mean, Share

# Of the distribution of differences.
BINS = 20
MOST_WORST = 20
# Values of an output that are taken from one request for its distribution.
_VALUES = 64


@dataclass(slots=True)
class Output:
    """What is known of one output.

    Attributes:
        chosen: How it is compared.
        difference: Of the candidate's to the baseline's.
        noise: Of the baseline's to its own.
        differing: How often it differs at all.
        bins: How the differences are distributed: none at all, then in equal parts up to 1.
        ours: The baseline's values.
        theirs: The candidate's.
        seen: True once a first answer was looked at.
    """

    chosen: Chosen
    difference: Mean = field(default_factory=Mean)
    noise: Mean = field(default_factory=Mean)
    differing: Share = field(default_factory=Share)
    bins: list[int] = field(default_factory=lambda: [0] * (BINS + 1))
    ours: Reservoir = field(default_factory=Reservoir)
    theirs: Reservoir = field(default_factory=Reservoir)
    seen: bool = False

    def compare(self, baseline: NDArray[Any], candidate: NDArray[Any] | None) -> Rows:
        """The difference of each row; takes the values in where they are numbers."""
        if not self.seen:
            self.chosen, self.seen = refine(self.chosen, baseline), True
        comparator = self.chosen.comparator
        if isinstance(comparator, Quantile) and candidate is not None:
            if candidate.shape != baseline.shape:
                return np.ones(len(baseline))
            found = comparator.ranked(baseline, candidate, self.ours, self.theirs)
        else:
            found = compare(comparator, baseline, candidate)
        if candidate is not None and baseline.dtype.kind in "iuf" and candidate.dtype.kind in "iuf":
            self.ours.add(baseline.reshape(-1)[:_VALUES].astype(float).tolist())
            self.theirs.add(candidate.reshape(-1)[:_VALUES].astype(float).tolist())
        return found

    def take(self, difference: float) -> None:
        """Takes a request's difference in."""
        self.difference.add(difference)
        self.differing.add(difference > 0)
        self.bins[0 if difference <= 0 else 1 + min(int(difference * BINS), BINS - 1)] += 1

    def state(self) -> dict[str, Any]:
        """All of it but how it was chosen to begin with."""
        return {
            "difference": self.difference.state(),
            "noise": self.noise.state(),
            "differing": self.differing.state(),
            "bins": self.bins,
            "ours": self.ours.state(),
            "theirs": self.theirs.state(),
            "seen": self.seen,
            "why": self.chosen.why,
            "comparator": self.chosen.comparator.model_dump(),  # type: ignore[attr-defined]
        }


@dataclass(slots=True)
class Part:
    """What is known of a part of the traffic."""

    order: int
    difference: Mean = field(default_factory=Mean)
    errors: Share = field(default_factory=Share)
    loss: Mean = field(default_factory=lambda: Mean(-1.0, 1.0))


class Evidence:
    """What is known of one candidate.

    Args:
        version: Its number.
        plan: How it is evaluated.
        outputs: How each output is compared.
        losses: How each output is judged by the truth.
    """

    def __init__(
        self,
        version: int,
        plan: Plan,
        outputs: Mapping[str, Chosen],
        losses: Mapping[str, Loss],
    ) -> None:
        self.version = version
        self._plan = plan
        self._losses = losses
        self.outputs = {name: Output(chosen) for name, chosen in outputs.items()}
        self.difference, self.noise = Mean(), Mean()
        self.errors, self.repeat_errors = Share(), Share()
        self.reasons: Counter[str] = Counter()
        self.latencies, self.baseline_latencies = Latencies(), Latencies()
        self.live_latencies = Latencies()
        self.loss = Mean(-1.0, 1.0)
        self.output_losses = {name: Mean(-1.0, 1.0) for name in outputs}
        self.parts: dict[tuple[str, str], Part] = {}
        self._known = Parts()
        self.worst: list[dict[str, Any]] = []

    def observe(self, seen: Observation) -> None:
        """Takes a request in."""
        reply = seen.candidates[self.version]
        lies = self._parts(seen)
        failed = bool(reply.error)
        if failed:
            self.reasons[reply.error] += 1
        self.errors.add(failed)
        for part, _ in _by_part(lies):
            part.errors.add(failed)
        self.live_latencies.add(seen.live_seconds)
        if seen.repeat is not None:
            self.repeat_errors.add(bool(seen.repeat.error))
            if not failed and not seen.repeat.error:
                self.latencies.add(reply.seconds)
                self.baseline_latencies.add(seen.repeat.seconds)
        if seen.baseline is None or reply.outputs is None:
            return
        self._compare(seen, seen.baseline, reply.outputs, lies)
        if seen.repeat is not None and seen.repeat.outputs is not None:
            self._listen(seen.baseline, seen.repeat.outputs)

    def _compare(
        self, seen: Observation, baseline: Arrays, candidate: Arrays, lies: Sequence[list[Part]]
    ) -> None:
        """How much the candidate's answer differs, on the whole and in each part."""
        by_output: dict[str, Rows] = {}
        for name, output in self.outputs.items():
            if name not in baseline:
                continue  # The caller did not ask for it.
            rows = output.compare(baseline[name], candidate.get(name))
            by_output[name] = rows
            output.take(float(rows.mean()) if rows.size else 0.0)
        if not by_output:
            return
        rows = _all(list(by_output.values()))
        total = float(rows.mean()) if rows.size else 0.0
        self.difference.add(total)
        if len(rows) == len(lies):
            for part, held in _by_part(lies):
                part.difference.add(float(rows[held].mean()))
        self._remember(seen, total, by_output, baseline, candidate)

    def _listen(self, baseline: Arrays, repeat: Arrays) -> None:
        """How much the baseline's answer differs from its own."""
        totals: list[Rows] = []
        for name, output in self.outputs.items():
            if name not in baseline:
                continue
            comparator = output.chosen.comparator
            if isinstance(comparator, Quantile):
                rows = np.zeros(1)
                if name in repeat and repeat[name].shape == baseline[name].shape:
                    rows = comparator.ranked(baseline[name], repeat[name], output.ours, output.ours)
            else:
                rows = compare(comparator, baseline[name], repeat.get(name))
            totals.append(rows)
            output.noise.add(float(rows.mean()) if rows.size else 0.0)
        if totals:
            rows = _all(totals)
            self.noise.add(float(rows.mean()) if rows.size else 0.0)

    def judge(
        self,
        truths: Mapping[str, Sequence[Truth]],
        baseline: Arrays,
        candidate: Arrays,
        parts: Sequence[tuple[str, str]],
    ) -> bool:
        """Takes a truth in: how much worse the candidate was than the baseline.

        Args:
            truths: By output, a truth a row.
            baseline: What the baseline had answered.
            candidate: What the candidate had.
            parts: Where the request lies.

        Returns:
            False where no truth fitted an output.
        """
        found: list[float] = []
        for name, told in truths.items():
            loss = self._losses.get(name)
            if loss is None or name not in baseline or name not in candidate:
                continue
            ours, theirs = judge(loss, baseline[name], told), judge(loss, candidate[name], told)
            pairs = zip(theirs, ours, strict=False)
            worse = [b - a for b, a in pairs if a is not None and b is not None]
            if worse:
                self.output_losses[name].add(float(np.mean(worse)))
                found.append(float(np.mean(worse)))
        if not found:
            return False
        self.loss.add(float(np.mean(found)))
        for key in parts:
            if key in self.parts:
                self.parts[key].loss.add(float(np.mean(found)))
        return True

    def where(self, seen: Observation) -> list[tuple[str, str]]:
        """The parts of the traffic that a request lies in."""
        found: dict[tuple[str, str], None] = {}
        for cut in self._plan.slices:
            values = cut.values(seen.metadata, seen.inputs, seen.baseline or {}, seen.rows)
            for value in values:
                if value is not None:
                    found[(cut.text, self._known.order(cut.text, value)[0])] = None
        return list(found)

    def _parts(self, seen: Observation) -> list[list[Part]]:
        """The parts that each row lies in."""
        lies: list[list[Part]] = [[] for _ in range(seen.rows)]
        for cut in self._plan.slices:
            values = cut.values(seen.metadata, seen.inputs, seen.baseline or {}, seen.rows)
            for row, value in enumerate(values):
                if value is None:
                    continue
                shown, order = self._known.order(cut.text, value)
                part = self.parts.get((cut.text, shown))
                if part is None:
                    part = self.parts[(cut.text, shown)] = Part(order)
                lies[row].append(part)
        return lies

    def _remember(
        self,
        seen: Observation,
        total: float,
        by_output: Mapping[str, Rows],
        baseline: Arrays,
        candidate: Arrays,
    ) -> None:
        """Keeps the worst disagreements."""
        if total <= 0:
            return
        if len(self.worst) >= MOST_WORST and total <= self.worst[-1]["difference"]:
            return
        means = {name: float(rows.mean()) if rows.size else 0.0 for name, rows in by_output.items()}
        self.worst.append(
            {
                "difference": total,
                "request_id": seen.request_id,
                "time": seen.time.timestamp(),
                "output": max(means, key=lambda name: means[name]),
                "inputs": shorten(seen.inputs),
                "baseline": shorten(baseline),
                "candidate": shorten(candidate),
                "slices": [f"{text} = {value}" for text, value in self.where(seen)],
            }
        )
        self.worst.sort(key=lambda one: -one["difference"])
        del self.worst[MOST_WORST:]

    def state(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            "outputs": {name: output.state() for name, output in self.outputs.items()},
            "difference": self.difference.state(),
            "noise": self.noise.state(),
            "errors": self.errors.state(),
            "repeat_errors": self.repeat_errors.state(),
            "reasons": dict(self.reasons),
            "latencies": self.latencies.state(),
            "baseline_latencies": self.baseline_latencies.state(),
            "live_latencies": self.live_latencies.state(),
            "loss": self.loss.state(),
            "output_losses": {name: mean.state() for name, mean in self.output_losses.items()},
            "parts": [
                [text, value, p.order, p.difference.state(), p.errors.state(), p.loss.state()]
                for (text, value), p in self.parts.items()
            ],
            "known": self._known.known,
            "worst": self.worst,
        }

    @classmethod
    def restore(
        cls,
        state: Mapping[str, Any],
        version: int,
        plan: Plan,
        outputs: Mapping[str, Chosen],
        losses: Mapping[str, Loss],
    ) -> Self:
        """From `state`, and what was given at its birth."""
        made = cls(version, plan, outputs, losses)
        made.outputs = {name: _output(held) for name, held in state["outputs"].items()}
        made.difference = Mean.restore(state["difference"])
        made.noise = Mean.restore(state["noise"])
        made.errors = Share.restore(state["errors"])
        made.repeat_errors = Share.restore(state["repeat_errors"])
        made.reasons = Counter(state["reasons"])
        made.latencies = Latencies.restore(state["latencies"])
        made.baseline_latencies = Latencies.restore(state["baseline_latencies"])
        made.live_latencies = Latencies.restore(state["live_latencies"])
        made.loss = Mean.restore(state["loss"])
        made.output_losses = {n: Mean.restore(held) for n, held in state["output_losses"].items()}
        for text, value, order, difference, errors, loss in state["parts"]:
            made.parts[(text, value)] = Part(
                order, Mean.restore(difference), Share.restore(errors), Mean.restore(loss)
            )
        made._known = Parts([(text, value) for text, value in state["known"]])
        made.worst = [dict(one) for one in state["worst"]]
        return made


def _output(held: Mapping[str, Any]) -> Output:
    return Output(
        Chosen(parse("", held["comparator"]), held["why"]),
        Mean.restore(held["difference"]),
        Mean.restore(held["noise"]),
        Share.restore(held["differing"]),
        list(held["bins"]),
        Reservoir.restore(held["ours"]),
        Reservoir.restore(held["theirs"]),
        held["seen"],
    )


def _all(by_output: Sequence[Rows]) -> Rows:
    """The mean over outputs, row by row where they have the same rows."""
    lengths = {len(rows) for rows in by_output}
    if len(lengths) == 1:
        return np.asarray(np.mean(np.stack(by_output), axis=0))
    return np.asarray([float(np.mean([rows.mean() for rows in by_output if rows.size]))])


def _by_part(lies: Sequence[Sequence[Part]]) -> list[tuple[Part, list[int]]]:
    """Each part with its rows."""
    rows: dict[int, tuple[Part, list[int]]] = {}
    for row, parts in enumerate(lies):
        for part in parts:
            rows.setdefault(part.order, (part, []))[1].append(row)
    return list(rows.values())
