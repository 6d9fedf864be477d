"""A report as one page with pictures, which needs nothing beside itself."""

import io
import math
from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Any

import jinja2
import matplotlib as mpl
from google.protobuf.timestamp_pb2 import Timestamp
from markupsafe import Markup
from matplotlib.figure import Figure

from modelyard.cli.report import gate_text, state_of, verdict_text
from modelyard.shadow.v1 import evaluation_pb2, report_pb2

_OURS, _THEIRS, _MARGIN = "#4c78a8", "#f58518", "#b22222"
_LATENCY = evaluation_pb2.Gate.KIND_LATENCY
_DECISIONS = {
    report_pb2.GateReport.DECISION_PASS: "holds",
    report_pb2.GateReport.DECISION_FAIL: "fails",
    report_pb2.GateReport.DECISION_OPEN: "open",
    report_pb2.GateReport.DECISION_NO_DATA: "no data",
}


def page(report: report_pb2.Report) -> str:
    """The page, as HTML; what callers sent is in it as text, never as markup."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("modelyard.cli", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.j2")
    return template.render(
        report=report,
        state=state_of(report.evaluation),
        time=_moment(report.time),
        candidates=[_candidate(candidate) for candidate in report.candidates],
        gate_text=gate_text,
        decision=lambda gate: _DECISIONS.get(gate.decision, ""),
        number=_number,
        moment=_moment,
    )


def _candidate(candidate: report_pb2.CandidateReport) -> dict[str, Any]:
    return {
        "said": candidate,
        "verdict": verdict_text(candidate.verdict),
        "gates": [(gate, _closing(gate)) for gate in candidate.gates],
        "slices": [(part, gate) for part in candidate.slices for gate in part.gates],
        "outputs": [(out, _differences(out), _quantiles(out)) for out in candidate.outputs],
        "latency": _latency(candidate.latency),
    }


def _closing(gate: report_pb2.GateReport) -> Markup | None:
    """How the interval closed, look by look."""
    looks = [look for look in gate.history if look.events]
    if len(looks) < 2:
        return None
    margin = gate.gate.margin

    def draw(axes: Any) -> None:
        events = [look.events for look in looks]
        finite = [abs(look.estimate) for look in looks if math.isfinite(look.estimate)]
        top = max([2.5 * abs(margin), *(2 * value for value in finite[-20:]), 1e-6])
        lower = [max(look.interval.lower, -top) for look in looks]
        upper = [min(look.interval.upper, 2 * top) for look in looks]
        axes.fill_between(events, lower, upper, color=_THEIRS, alpha=0.25, linewidth=0)
        axes.plot(events, [look.estimate for look in looks], color=_THEIRS)
        axes.axhline(margin, color=_MARGIN, linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.set_ylim(min(0.0, *lower[len(lower) // 4 :], margin), top)
        axes.set_xlabel("observations")
        axes.set_ylabel("ratio" if gate.gate.kind == _LATENCY else "mean, beside the margin")

    return _figure(draw)


def _differences(output: report_pb2.OutputReport) -> Markup | None:
    counts, edges = output.differences.counts, output.differences.edges
    if not sum(counts):
        return None

    def draw(axes: Any) -> None:
        # The first bin holds the answers that do not differ at all.
        width = edges[2] - edges[1]
        axes.bar([-width], counts[:1], width=width * 0.9, color=_OURS, label="the same")
        middles = [low + width / 2 for low in edges[1:-1]]
        axes.bar(middles, counts[1:], width=width * 0.9, color=_THEIRS, label="differing")
        axes.set_yscale("symlog", linthresh=1)
        axes.set_xlabel("difference")
        axes.set_ylabel("requests")
        axes.legend(frameon=False)

    return _figure(draw)


def _quantiles(output: report_pb2.OutputReport) -> Markup | None:
    pairs = output.quantiles
    if not pairs:
        return None

    def draw(axes: Any) -> None:
        ours = [pair.baseline for pair in pairs]
        theirs = [pair.candidate for pair in pairs]
        ends = [min(*ours, *theirs), max(*ours, *theirs)]
        axes.plot(ends, ends, color="#999999", linewidth=1)
        axes.plot(ours, theirs, "o", color=_THEIRS, markersize=3)
        axes.set_xlabel("baseline")
        axes.set_ylabel("candidate")

    return _figure(draw)


def _latency(latency: report_pb2.LatencyReport) -> Markup | None:
    bands = latency.bands
    if not bands:
        return None

    def draw(axes: Any) -> None:
        for offset, color, label in ((-0.12, _OURS, "baseline"), (0.12, _THEIRS, "candidate")):
            for index, band in enumerate(bands):
                value = getattr(band, label) * 1e3
                interval = getattr(band, f"{label}_interval")
                upper = interval.upper * 1e3 if math.isfinite(interval.upper) else value * 3
                axes.plot(
                    [index + offset] * 2,
                    [interval.lower * 1e3, upper],
                    color=color,
                    lw=4,
                    alpha=0.35,
                )
                axes.plot(
                    index + offset,
                    value,
                    "o",
                    color=color,
                    markersize=4,
                    label=label if index == 0 else None,
                )
        axes.set_xticks(range(len(bands)), [f"p{band.quantile * 100:g}" for band in bands])
        axes.set_ylabel("ms, in the shadow")
        axes.legend(frameon=False)

    return _figure(draw)


def _figure(draw: Callable[[Any], None]) -> Markup:
    # Ids in an SVG are made by chance; a fixed salt keeps the page the same for the same report.
    with mpl.rc_context({"svg.hashsalt": "modelyard", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4.6, 2.6), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    # Drawn by matplotlib from numbers and our own words alone, so it is no caller's text.
    return Markup(text[text.index("<svg") :])  # noqa: S704


def _number(value: float) -> str:
    return f"{value:.4g}"


def _moment(time: Timestamp) -> str:
    return time.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if time.seconds else ""


__all__: Sequence[str] = ["page"]
