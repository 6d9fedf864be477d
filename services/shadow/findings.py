"""What an evaluation has learnt: begun, kept, and taken up again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelyard.catalog import Version
from services.shadow import losses
from services.shadow.comparators.choose import chosen_for
from services.shadow.evidence import Evidence
from services.shadow.judgement import Judgement
from services.shadow.plan import Plan
from services.shadow.tally import Tally

_STATE = 1


@dataclass(slots=True)
class Findings:
    """All that an evaluation has learnt.

    Attributes:
        evidence: By candidate.
        judgements: By candidate.
        tally: What became of the requests.
        rate: Replayed requests a second, of late.
    """

    evidence: dict[int, Evidence]
    judgements: dict[int, Judgement]
    tally: Tally = field(default_factory=Tally)
    rate: float = 0.0

    def state(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            "format": _STATE,
            "evidence": {str(n): held.state() for n, held in self.evidence.items()},
            "judgements": {str(n): held.state() for n, held in self.judgements.items()},
            "tally": self.tally.state(),
        }


def begin(plan: Plan, baseline: Version, candidates: Sequence[int]) -> Findings:
    """Nothing learnt yet."""
    compared = _compared(plan, baseline)
    return Findings(
        {n: Evidence(n, plan, *compared) for n in candidates},
        {n: Judgement() for n in candidates},
    )


def resume(
    state: Mapping[str, Any], plan: Plan, baseline: Version, candidates: Sequence[int]
) -> Findings:
    """What was kept."""
    compared = _compared(plan, baseline)
    evidence, judgements = state["evidence"], state["judgements"]
    return Findings(
        {n: Evidence.restore(evidence[str(n)], n, plan, *compared) for n in candidates},
        {n: Judgement.restore(judgements[str(n)]) for n in candidates},
        Tally.restore(state["tally"]),
    )


def _compared(plan: Plan, baseline: Version) -> Any:
    """How each output is compared, and how it is judged by the truth."""
    outputs = {tensor.name: tensor for tensor in baseline.signature.outputs}
    judged = {name: plan.losses.get(name) or losses.choose(t) for name, t in outputs.items()}
    return chosen_for(outputs, plan.comparators), judged
