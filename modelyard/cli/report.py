"""A report as a table."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from modelyard.cli.output import short
from modelyard.shadow.v1 import evaluation_pb2, report_pb2

_STYLES = {
    report_pb2.VERDICT_PROMOTE: "bold green",
    report_pb2.VERDICT_REJECT: "bold red",
}
_DECISIONS = {
    report_pb2.GateReport.DECISION_PASS: ("holds", "green"),
    report_pb2.GateReport.DECISION_FAIL: ("fails", "red"),
    report_pb2.GateReport.DECISION_OPEN: ("open", ""),
    report_pb2.GateReport.DECISION_NO_DATA: ("no data", "dim"),
}
_BAR = 24


def state_of(evaluation: evaluation_pb2.Evaluation) -> str:
    """An evaluation's state, as people say it."""
    name = evaluation_pb2.Evaluation.State.Name(evaluation.state)
    return name.removeprefix("STATE_").lower()


def verdict_of(
    verdicts: "Sequence[report_pb2.Verdict.ValueType]",
) -> "report_pb2.Verdict.ValueType":
    """What is said of all candidates: the worst of what is said of each."""
    for verdict in (
        report_pb2.VERDICT_REJECT,
        report_pb2.VERDICT_INCONCLUSIVE,
        report_pb2.VERDICT_NO_DATA,
    ):
        if verdict in verdicts:
            return verdict
    return report_pb2.VERDICT_PROMOTE if verdicts else report_pb2.VERDICT_NO_DATA


def verdict_text(verdict: "report_pb2.Verdict.ValueType") -> str:
    """A verdict, as people say it."""
    return report_pb2.Verdict.Name(verdict).removeprefix("VERDICT_").replace("_", " ")


def gate_text(gate: evaluation_pb2.Gate) -> str:
    """A gate, as people say it."""
    kind = evaluation_pb2.Gate.Kind.Name(gate.kind).removeprefix("KIND_").lower()
    of = f" of {gate.output}" if gate.output else ""
    if gate.kind == evaluation_pb2.Gate.KIND_LATENCY:
        return f"latency p{gate.quantile * 100:g}, at most {gate.margin:g} times"
    return f"{kind}{of}, at most {gate.margin:g}"


def shown(report: report_pb2.Report) -> RenderableType:
    """A report for a terminal."""
    evaluation, counts = report.evaluation, report.counts
    head = Text(f"{evaluation.name}  {state_of(evaluation)}")
    if evaluation.reason:
        head.append(f": {evaluation.reason}", "dim")
    line = (
        f"{counts.replayed:,} of {counts.seen:,} requests replayed ({counts.rate:.0f}/s),"
        f" {counts.repeated:,} on the baseline again, {counts.unpaired:,} answered by another"
    )
    if counts.lost:
        line += f", {counts.lost:,} LOST"
    if counts.labelled or counts.unmatched:
        line += f"; {counts.labelled:,} truths joined, {counts.unmatched:,} not"
    parts: list[RenderableType] = [head, Text(line, "dim")]
    for candidate in report.candidates:
        parts += _candidate(evaluation, candidate)
    return Group(*parts)


def _candidate(
    evaluation: evaluation_pb2.Evaluation, candidate: report_pb2.CandidateReport
) -> list[RenderableType]:
    verdict = verdict_text(candidate.verdict)
    head = Text(f"\nversion {candidate.version} ({short(candidate.digest)})")
    head.append(f" beside version {evaluation.baseline}: ")
    head.append(verdict, _STYLES.get(candidate.verdict, "bold"))
    parts: list[RenderableType] = [head]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("gate", "", "observed", "interval", "", "still needed"):
        table.add_column(title)
    for gate in candidate.gates:
        table.add_row(*_gate(gate))
    parts.append(table)
    failed = [
        (part, gate)
        for part in candidate.slices
        for gate in part.gates
        if gate.decision == report_pb2.GateReport.DECISION_FAIL
    ]
    for part, gate in failed:
        text = f"where {part.slice} is {part.value}: {gate_text(gate.gate)} fails,"
        parts.append(Text(f"{text} observed {gate.estimate:.4g} after {gate.events:,}", "red"))
    if candidate.slices and not failed:
        parts.append(Text(f"{len(candidate.slices)} parts of the traffic: none fails", "dim"))
    if candidate.errors.reasons:
        told = ", ".join(f"{why} {n:,}" for why, n in sorted(candidate.errors.reasons.items()))
        parts.append(Text(f"failures: {told}", "red"))
    for output in candidate.outputs:
        parts.append(
            Text(
                f"{output.output}: {output.comparator} ({output.why}); differs on"
                f" {output.differing:.2%}, by {output.mean:.4g} in the mean,"
                f" noise {output.noise:.4g}",
                "dim",
            )
        )
    return parts


def _gate(gate: report_pb2.GateReport) -> list[RenderableType]:
    word, style = _DECISIONS.get(gate.decision, ("", ""))
    row: list[RenderableType] = [gate_text(gate.gate), Text(word, style)]
    if gate.decision == report_pb2.GateReport.DECISION_NO_DATA:
        return [*row, "", "", "", ""]
    lower, upper = gate.interval.lower, gate.interval.upper
    row += [f"{gate.estimate:.4g}", f"{lower:.4g} to {upper:.4g}", bar(gate)]
    if gate.decision != report_pb2.GateReport.DECISION_OPEN:
        return [*row, ""]
    if not gate.HasField("needed"):
        return [*row, "on the margin"]
    when = ""
    if gate.HasField("expected"):
        left = gate.expected.ToDatetime(UTC) - datetime.now(UTC)
        when = f", {_span(left.total_seconds())}"
    return [*row, f"{gate.needed:,}{when}"]


def bar(gate: report_pb2.GateReport) -> str:
    """The interval beside the margin, which stands in the middle: `---|===`."""
    margin = gate.gate.margin or 0.02
    lowest = 1.0 if gate.gate.kind == evaluation_pb2.Gate.KIND_LATENCY else 0.0
    width = max(abs(margin - lowest), 1e-9)

    def at(value: float) -> int:
        if not math.isfinite(value):
            return _BAR - 1 if value > 0 else 0
        share = (value - margin) / width / 2 + 0.5
        return min(max(int(share * _BAR), 0), _BAR - 1)

    cells = ["·"] * _BAR
    for index in range(at(gate.interval.lower), at(gate.interval.upper) + 1):
        cells[index] = "━"
    cells[_BAR // 2] = "┃"
    return "".join(cells)


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"about {seconds / length:.0f} {unit}"
    return f"about {max(seconds, 0):.0f} s"
