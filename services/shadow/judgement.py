"""From the evidence on a candidate to where its gates stand, and to a verdict that lasts. Pure."""

from dataclasses import dataclass, field
from typing import Any, Self

from services.shadow.evidence import Evidence, Part
from services.shadow.plan import Plan
from services.shadow.statistics import Mean
from services.shadow.verdict import (
    Decision,
    Excess,
    Gate,
    Kind,
    Slowness,
    Standing,
    Verdict,
    conclude,
    part,
    slice_part,
    stand,
)
from services.shadow.verdict import Evidence as Observed

# Looks at a gate that are kept, for the picture of how its interval closed.
MOST_LOOKS = 200
# A part of the traffic with such a share of it is large: no promotion before its gates hold, too.
LARGE = 0.05
_FINAL = (Verdict.PROMOTE, Verdict.REJECT)


@dataclass(slots=True)
class Judgement:
    """What is said of a candidate, as time goes on.

    Attributes:
        verdict: The latest; a promotion or a rejection stands.
        reasons: Why.
        at: When it was reached, in Unix seconds.
        passed: Gates that have passed, by their place: who has passed once has passed.
        failed: Gates that have failed.
        looks: At each gate: observations, estimate, lower and upper end.
    """

    verdict: Verdict = Verdict.NO_DATA
    reasons: list[str] = field(default_factory=list)
    at: float = 0.0
    passed: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    looks: dict[int, list[list[float]]] = field(default_factory=dict)

    @property
    def final(self) -> bool:
        """Whether the verdict stands."""
        return self.verdict in _FINAL

    def state(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            "verdict": self.verdict.value,
            "reasons": self.reasons,
            "at": self.at,
            "passed": sorted(self.passed),
            "failed": sorted(self.failed),
            "looks": [[index, looks] for index, looks in self.looks.items()],
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Self:
        """From `state`."""
        return cls(
            Verdict(state["verdict"]),
            list(state["reasons"]),
            state["at"],
            set(state["passed"]),
            set(state["failed"]),
            {index: looks for index, looks in state["looks"]},
        )


def observed(gate: Gate, evidence: Evidence) -> Observed:
    """What was observed for a gate on the whole traffic."""
    match gate.kind:
        case Kind.DIFFERENCE if gate.output:
            output = evidence.outputs.get(gate.output)
            return Excess(output.difference, output.noise) if output else Excess(Mean(), Mean())
        case Kind.DIFFERENCE:
            return Excess(evidence.difference, evidence.noise)
        case Kind.ERRORS:
            return evidence.errors
        case Kind.LATENCY:
            return Slowness(evidence.latencies, evidence.baseline_latencies, gate.quantile)
        case Kind.LOSS if gate.output:
            return evidence.output_losses.get(gate.output, Mean(-1.0, 1.0))
        case Kind.LOSS:
            return evidence.loss


def observed_on(gate: Gate, held: Part, evidence: Evidence) -> Observed:
    """What was observed for a gate on a part of the traffic; the noise is that of the whole."""
    match gate.kind:
        case Kind.ERRORS:
            return held.errors
        case Kind.LOSS:
            return held.loss
        case _:
            return Excess(held.difference, evidence.noise)


def standings(plan: Plan, evidence: Evidence, candidates: int) -> list[Standing]:
    """Where each gate stands on the whole traffic."""
    alpha = part(plan.alpha, len(plan.gates) * candidates)
    return [stand(gate, observed(gate, evidence), alpha) for gate in plan.gates]


def slice_standings(
    plan: Plan, evidence: Evidence, candidates: int
) -> dict[tuple[str, str], list[Standing]]:
    """Where the gates stand on each part of the traffic. Those of an output are for the whole."""
    gates = [gate for gate in plan.slice_gates if not gate.output]
    found: dict[tuple[str, str], list[Standing]] = {}
    for key, held in evidence.parts.items():
        alpha = part(slice_part(plan.alpha, held.order), len(gates) * candidates)
        found[key] = [stand(gate, observed_on(gate, held, evidence), alpha) for gate in gates]
    return found


def look(
    judgement: Judgement, plan: Plan, evidence: Evidence, candidates: int, now: float
) -> Judgement:
    """Looks at all gates, and says what follows; changes the judgement and gives it back."""
    whole = standings(plan, evidence, candidates)
    parts = slice_standings(plan, evidence, candidates)
    decisions: list[Decision] = []
    for index, standing in enumerate(whole):
        if standing.decision is Decision.PASS:
            judgement.passed.add(index)
        elif standing.decision is Decision.FAIL:
            judgement.failed.add(index)
        decisions.append(latched(judgement, index, standing.decision))
        _note(judgement, index, standing)
    sized: dict[bool, list[Decision]] = {True: [], False: []}
    for key, held in parts.items():
        sized[is_large(evidence, key)] += [standing.decision for standing in held]
    verdict = conclude(decisions, sized[False], sized[True])
    if not judgement.final:
        judgement.verdict = verdict
        judgement.reasons = reasons(decisions, whole, parts, evidence)
        if judgement.final:
            judgement.at = now
    return judgement


def is_large(evidence: Evidence, key: tuple[str, str]) -> bool:
    """Whether a promotion waits for a part of the traffic."""
    return evidence.parts[key].errors.count >= LARGE * evidence.errors.count


def latched(judgement: Judgement, index: int, decision: Decision) -> Decision:
    """Where a gate stands, with what it has shown before: alpha is spent on it once."""
    if index in judgement.failed:
        return Decision.FAIL
    if index in judgement.passed:
        return Decision.PASS
    return decision


def reasons(
    decisions: list[Decision],
    whole: list[Standing],
    parts: dict[tuple[str, str], list[Standing]],
    evidence: Evidence,
) -> list[str]:
    """Why a verdict is what it is, the most important first."""
    told: list[str] = []
    for decision, standing in zip(decisions, whole, strict=True):
        if decision is Decision.FAIL:
            told.append(f"fails: {_tell(standing)}")
    for (text, value), held in parts.items():
        told += [
            f"fails where {text} is {value!r}: {_tell(standing)}"
            for standing in held
            if standing.decision is Decision.FAIL
        ]
    if Decision.FAIL in decisions and evidence.reasons:
        most = ", ".join(f"{why} {count} times" for why, count in evidence.reasons.most_common(3))
        told.append(f"its failures: {most}")
    for decision, standing in zip(decisions, whole, strict=True):
        if decision is Decision.OPEN:
            told.append(f"open: {_tell(standing)}")
        elif decision is Decision.NO_DATA:
            told.append(f"nothing observed yet: {standing.gate}")
    for key, held in parts.items():
        text, value = key
        told += [
            f"open where {text} is {value!r}: {_tell(standing)}"
            for standing in held
            if standing.decision is Decision.OPEN and is_large(evidence, key)
        ]
    for decision, standing in zip(decisions, whole, strict=True):
        if decision is Decision.PASS:
            told.append(f"holds: {_tell(standing)}")
    return told


def _tell(standing: Standing) -> str:
    lower, upper = standing.interval
    return (
        f"{standing.gate}; observed {standing.estimate:.4g},"
        f" between {lower:.4g} and {upper:.4g} after {standing.count}"
    )


def _note(judgement: Judgement, index: int, standing: Standing) -> None:
    """Keeps a look; where there are too many, every second one goes."""
    if not standing.count:
        return
    looks = judgement.looks.setdefault(index, [])
    one = [float(standing.count), standing.estimate, *standing.interval]
    if looks and looks[-1][0] == one[0]:
        looks[-1] = one
        return
    looks.append(one)
    if len(looks) > MOST_LOOKS:
        del looks[1:-1:2]


__all__ = ["Judgement", "latched", "look", "observed", "slice_standings", "standings"]
