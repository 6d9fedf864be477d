"""Plans, from protobuf and back into what is kept."""

from datetime import UTC, timedelta
from typing import Any

from google.protobuf.json_format import MessageToDict

from modelyard.errors import InvalidArgument
from modelyard.shadow.v1 import evaluation_pb2 as pb
from services.shadow import comparators, losses, slices
from services.shadow.plan import DEFAULT_GATES, Plan, Window
from services.shadow.verdict import Gate, Kind

_KINDS = {
    pb.Gate.KIND_DIFFERENCE: Kind.DIFFERENCE,
    pb.Gate.KIND_ERRORS: Kind.ERRORS,
    pb.Gate.KIND_LATENCY: Kind.LATENCY,
    pb.Gate.KIND_LOSS: Kind.LOSS,
}
_KINDS_BACK = {kind: number for number, kind in _KINDS.items()}


def plan_from(message: pb.Plan) -> Plan:
    """A plan, checked, with its defaults; raises InvalidArgument, naming the field."""
    usual = Plan()
    gates = tuple(gate_from(index, gate) for index, gate in enumerate(message.gates))
    plan = Plan(
        sample=1.0 if message.HasField("window") else message.sample,
        baseline_sample=(
            message.baseline_sample
            if message.HasField("baseline_sample")
            else usual.baseline_sample
        ),
        gates=gates or DEFAULT_GATES,
        alpha=message.alpha or usual.alpha,
        slices=tuple(slices.parse(text) for text in message.slices),
        comparators={
            name: comparators.parse(name, _tree(told)) for name, told in message.comparators.items()
        },
        losses={name: losses.parse(name, _tree(told)) for name, told in message.losses.items()},
        max_events=message.max_events or usual.max_events,
        max_time=_span(message) if message.HasField("max_time") else usual.max_time,
        concurrency=message.concurrency or usual.concurrency,
        max_rate=message.max_rate,
        canary=message.canary,
        window=_window(message) if message.HasField("window") else None,
    )
    plan.check()
    return plan


def gate_from(index: int, gate: pb.Gate) -> Gate:
    """A gate; raises InvalidArgument, naming the field."""
    kind = _KINDS.get(gate.kind)
    if kind is None:
        raise InvalidArgument(f"plan.gates[{index}].kind: not given", field=f"plan.gates[{index}]")
    return Gate(kind, gate.margin, gate.output, gate.quantile or 0.95)


def gate_to(gate: Gate) -> pb.Gate:
    """A gate, to protobuf."""
    latency = gate.kind is Kind.LATENCY
    return pb.Gate(
        kind=_KINDS_BACK[gate.kind],
        margin=gate.margin,
        output=gate.output,
        quantile=gate.quantile if latency else 0.0,
    )


def filled(message: pb.Plan, plan: Plan) -> pb.Plan:
    """The message with every default that the plan took, so that a report tells them."""
    whole = pb.Plan()
    whole.CopyFrom(message)
    whole.sample, whole.baseline_sample = plan.sample, plan.baseline_sample
    whole.alpha, whole.max_events, whole.concurrency = (
        plan.alpha,
        plan.max_events,
        plan.concurrency,
    )
    whole.max_time.FromTimedelta(plan.max_time)
    del whole.gates[:]
    whole.gates.extend(gate_to(gate) for gate in plan.gates)
    return whole


def _tree(told: Any) -> dict[str, Any]:
    """A struct as Python has it; its numbers are all floats, whole ones among them."""
    tree: dict[str, Any] = MessageToDict(told)
    return {
        key: int(value) if isinstance(value, float) and value.is_integer() else value
        for key, value in tree.items()
    }


def _span(message: pb.Plan) -> timedelta:
    try:
        return message.max_time.ToTimedelta()
    except (OverflowError, ValueError):
        raise InvalidArgument(
            f"plan.max_time: {message.max_time.seconds} s is no time to wait", field="plan.max_time"
        ) from None


def _window(message: pb.Plan) -> Window:
    window = message.window
    if not (window.HasField("start") and window.HasField("end")):
        raise InvalidArgument("plan.window: needs a start and an end", field="plan.window")
    return Window(window.start.ToDatetime(UTC), window.end.ToDatetime(UTC))
