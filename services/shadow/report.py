"""What an evaluation has found, as a report."""

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from modelyard.events.progress import Progress
from modelyard.shadow.v1 import evaluation_pb2, report_pb2
from services.shadow.comparators import Reservoir
from services.shadow.convert import gate_to
from services.shadow.evidence import BINS, Evidence, Output
from services.shadow.findings import Findings
from services.shadow.judgement import Judgement, latched, observed, slice_standings, standings
from services.shadow.plan import Plan
from services.shadow.statistics import Interval, Latencies
from services.shadow.verdict import Decision, Kind, Standing, Verdict, needed, part

_VERDICTS = {
    Verdict.NO_DATA: report_pb2.VERDICT_NO_DATA,
    Verdict.INCONCLUSIVE: report_pb2.VERDICT_INCONCLUSIVE,
    Verdict.PROMOTE: report_pb2.VERDICT_PROMOTE,
    Verdict.REJECT: report_pb2.VERDICT_REJECT,
}
_DECISIONS = {
    Decision.NO_DATA: report_pb2.GateReport.DECISION_NO_DATA,
    Decision.OPEN: report_pb2.GateReport.DECISION_OPEN,
    Decision.PASS: report_pb2.GateReport.DECISION_PASS,
    Decision.FAIL: report_pb2.GateReport.DECISION_FAIL,
}
_QUANTILES = (0.5, 0.9, 0.95, 0.99)
# Of a Q-Q plot.
_POINTS = tuple(index / 40 for index in range(1, 40))
# A forecast beyond so long is none.
_FARTHEST = timedelta(days=3650)


def report_of(
    evaluation: evaluation_pb2.Evaluation,
    plan: Plan,
    findings: Findings | None,
    progress: Progress,
    digests: dict[int, str],
) -> report_pb2.Report:
    """The report of an evaluation; `findings` is None where it has not begun."""
    report = report_pb2.Report(evaluation=evaluation)
    report.time.GetCurrentTime()
    report.counts.lost, report.counts.duplicates = progress.lost, progress.duplicates
    if findings is None:
        for number in evaluation.candidates:
            report.candidates.add(
                version=number,
                digest=digests.get(number, ""),
                verdict=report_pb2.VERDICT_NO_DATA,
                reasons=[evaluation.reason] if evaluation.reason else [],
            )
        return report
    tally = findings.tally
    for name in (
        *("seen", "replayed", "passed_over", "unpaired", "repeated", "labelled", "unmatched"),
    ):
        setattr(report.counts, name, getattr(tally, name))
    report.counts.rate = findings.rate
    if tally.newest and not plan.window:
        report.counts.lag.FromTimedelta(timedelta(seconds=max(0.0, time.time() - tally.newest)))
    for number in evaluation.candidates:
        judgement = findings.judgements[number]
        made = candidate(plan, findings.evidence[number], judgement, findings)
        made.digest = digests.get(number, "")
        report.candidates.append(made)
    return report


def candidate(
    plan: Plan, evidence: Evidence, judgement: Judgement, findings: Findings
) -> report_pb2.CandidateReport:
    """What was found of one candidate."""
    count = len(findings.evidence)
    made = report_pb2.CandidateReport(
        version=evidence.version,
        verdict=_VERDICTS[judgement.verdict],
        reasons=judgement.reasons,
    )
    if judgement.at:
        made.verdict_time.CopyFrom(_time(judgement.at))
    for index, standing in enumerate(standings(plan, evidence, count)):
        gate = made.gates.add()
        _gate(gate, standing, latched(judgement, index, standing.decision))
        if standing.gate.kind is Kind.DIFFERENCE:
            _noise(gate, standing, evidence)
        if gate.decision == report_pb2.GateReport.DECISION_OPEN:
            _forecast(gate, standing, evidence, findings)
        for seen, estimate, lower, upper in judgement.looks.get(index, []):
            gate.history.add(
                events=int(seen), estimate=estimate, interval=_interval(Interval(lower, upper))
            )
    for (text, value), held in slice_standings(plan, evidence, count).items():
        shown = made.slices.add(slice=text, value=value)
        for standing in held:
            _gate(shown.gates.add(), standing, standing.decision)
    for name, output in evidence.outputs.items():
        made.outputs.append(_output(name, output))
    alpha = part(plan.alpha, len(plan.gates) * count)
    _latency(made.latency, evidence, alpha)
    made.errors.candidate = _number(evidence.errors.estimate)
    made.errors.candidate_interval.CopyFrom(_interval(evidence.errors.interval(alpha)))
    made.errors.baseline = _number(evidence.repeat_errors.estimate)
    made.errors.reasons.update(evidence.reasons)
    for one in evidence.worst:
        shown_one = made.worst.add(**{k: v for k, v in one.items() if k != "time"})
        shown_one.time.CopyFrom(_time(one["time"]))
    return made


def _gate(made: report_pb2.GateReport, standing: Standing, decision: Decision) -> None:
    made.gate.CopyFrom(gate_to(standing.gate))
    made.decision = _DECISIONS[decision]
    made.estimate = _number(standing.estimate)
    made.interval.CopyFrom(_interval(standing.interval))
    made.alpha, made.events = standing.alpha, standing.count


def _noise(made: report_pb2.GateReport, standing: Standing, evidence: Evidence) -> None:
    noise = evidence.noise
    if standing.gate.output in evidence.outputs:
        noise = evidence.outputs[standing.gate.output].noise
    if noise.count:
        made.noise.CopyFrom(_interval(noise.interval(standing.alpha / 2)))


def _forecast(
    made: report_pb2.GateReport, standing: Standing, evidence: Evidence, findings: Findings
) -> None:
    seen = observed(standing.gate, evidence)
    more = needed(standing.gate, seen, standing.alpha)
    if more is None:
        return
    made.needed = more
    # Not every request counts for every gate: a share of them is given to the baseline again.
    pace = findings.rate * seen.count / max(findings.tally.replayed, 1)
    if pace > 0 and more / pace < _FARTHEST.total_seconds():
        made.expected.CopyFrom(_time(time.time() + more / pace))


def _output(name: str, output: Output) -> report_pb2.OutputReport:
    made = report_pb2.OutputReport(
        output=name,
        comparator=output.chosen.comparator.kind,
        why=output.chosen.why,
        mean=_number(output.difference.estimate),
        noise=_number(output.noise.estimate),
        differing=_number(output.differing.estimate),
        differences=report_pb2.Histogram(
            edges=[0.0, *(index / BINS for index in range(BINS + 1))], counts=output.bins
        ),
    )
    if output.ours.count and output.theirs.count:
        made.quantiles.extend(_pairs(output.ours, output.theirs))
    return made


def _pairs(ours: Reservoir, theirs: Reservoir) -> Sequence[report_pb2.QuantilePair]:
    return [
        report_pb2.QuantilePair(quantile=q, baseline=ours.quantile(q), candidate=theirs.quantile(q))
        for q in _POINTS
    ]


def _latency(made: report_pb2.LatencyReport, evidence: Evidence, alpha: float) -> None:
    made.events = evidence.latencies.count
    made.live_median = _number(evidence.live_latencies.quantile(0.5))
    if not evidence.latencies.count:
        return

    def interval(held: Latencies, q: float) -> report_pb2.Interval:
        return _interval(held.band(q, alpha))

    for q in _QUANTILES:
        made.bands.add(
            quantile=q,
            baseline=evidence.baseline_latencies.quantile(q),
            baseline_interval=interval(evidence.baseline_latencies, q),
            candidate=evidence.latencies.quantile(q),
            candidate_interval=interval(evidence.latencies, q),
        )


def _interval(interval: Interval) -> report_pb2.Interval:
    return report_pb2.Interval(lower=interval.lower, upper=interval.upper)


def _number(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _time(seconds: float) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(datetime.fromtimestamp(seconds, UTC))
    return made
