"""Routes, to protobuf and back."""

from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Value

from modelyard.catalog.model import frozen
from modelyard.catalog.route import (
    Constant,
    Fallback,
    Hedge,
    Json,
    LastGood,
    Match,
    Rendezvous,
    Route,
    Shadow,
    Share,
    Target,
)
from modelyard.errors import InvalidName, InvalidRoute
from modelyard.gateway.v1 import route_pb2 as pb
from modelyard.names import LIVE, check_model


def route_name(model: str) -> str:
    """`models/{model}/route`."""
    return f"models/{model}/route"


def model_of(name: str) -> str:
    """The model of a route's name; raises InvalidName."""
    match name.split("/"):
        case ["models", model, "route"]:
            return check_model(model)
    raise InvalidName(f"{name!r} is not of the form models/MODEL/route", field="name")


def duration_to(span: timedelta) -> Duration:
    """A span of time, to protobuf."""
    duration = Duration()
    duration.FromTimedelta(span)
    return duration


def seconds_to(seconds: float) -> Duration:
    """Seconds, to protobuf; at most a nanosecond is lost."""
    nanos = round(seconds * 1e9)
    return Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def route_to(route: Route) -> pb.Route:
    """A route, to protobuf."""
    message = pb.Route(
        name=route_name(route.model),
        default=_target_to(route.default),
        deadline=_optional(route.deadline),
        retry=pb.Retry(max_attempts=route.max_attempts) if route.max_attempts else None,
        etag=route.etag,
        split=[pb.Share(target=_target_to(s.target), weight=s.weight) for s in route.split],
        sticky=route.sticky,
        match=[pb.Match(metadata=m.metadata, target=_target_to(m.target)) for m in route.match],
        fallback=[_fallback_to(fallback) for fallback in route.fallback],
        rendezvous=[
            pb.Rendezvous(target=_target_to(r.target), accept_from=duration_to(r.accept_from))
            for r in route.rendezvous
        ],
        shadow=[pb.Shadow(target=_target_to(s.target), sample=s.sample) for s in route.shadow],
    )
    if route.tap:
        message.tap.sample = route.tap
    if route.hedge is not None:
        message.hedge.max_extra_load = route.hedge.max_extra_load
        if route.hedge.delay is not None:
            message.hedge.delay.FromTimedelta(route.hedge.delay)
    return message


def route_from(route: pb.Route) -> Route:
    """A route, from protobuf; its values are checked by who takes it in.

    Raises:
        InvalidName: It is not named as routes are.
        InvalidRoute: A target names nothing.
    """
    hedge = None
    if route.HasField("hedge"):
        delay = None
        if route.hedge.HasField("delay"):
            delay = _span("hedge.delay", route.hedge.delay)
        hedge = Hedge(route.hedge.max_extra_load, delay)
    default = Target(label=LIVE)
    if route.HasField("default"):
        default = _target_from("default", route.default)
    return Route(
        model=model_of(route.name),
        default=default,
        deadline=_span("deadline", route.deadline) if route.HasField("deadline") else None,
        max_attempts=route.retry.max_attempts if route.HasField("retry") else None,
        split=tuple(
            Share(_target_from(f"split[{i}]", s.target), s.weight)
            for i, s in enumerate(route.split)
        ),
        sticky=route.sticky,
        match=tuple(
            Match(frozen(dict(m.metadata)), _target_from(f"match[{i}]", m.target))
            for i, m in enumerate(route.match)
        ),
        hedge=hedge,
        fallback=tuple(
            _fallback_from(f"fallback[{i}]", fallback) for i, fallback in enumerate(route.fallback)
        ),
        rendezvous=tuple(
            Rendezvous(
                _target_from(f"rendezvous[{i}]", r.target),
                _span(f"rendezvous[{i}].accept_from", r.accept_from),
            )
            for i, r in enumerate(route.rendezvous)
        ),
        shadow=tuple(
            Shadow(_target_from(f"shadow[{i}]", s.target), s.sample)
            for i, s in enumerate(route.shadow)
        ),
        tap=_sample_of(route.tap) if route.HasField("tap") else 0.0,
        revision=_revision(route.etag),
    )


def _sample_of(tap: pb.Tap) -> float:
    """Of a tap that is there; 0 is no share, and no way to say that there is none."""
    if not tap.sample:
        raise InvalidRoute(
            "tap.sample 0: above 0, at most 1; leave the tap out", field="tap.sample"
        )
    return tap.sample


def _revision(etag: str) -> int:
    """Of an etag that is one; 0 for any other, which no route has."""
    return int(etag) if etag.isascii() and etag.isdigit() and len(etag) < 20 else 0


def _span(field: str, span: Duration) -> timedelta:
    try:
        return span.ToTimedelta()
    except (OverflowError, ValueError):
        raise InvalidRoute(f"{field}: {span.seconds} s is no time to wait", field=field) from None


def _optional(span: timedelta | None) -> Duration | None:
    return None if span is None else duration_to(span)


def _target_to(target: Target) -> pb.Target:
    return pb.Target(version=target.version) if target.version else pb.Target(label=target.label)


def _target_from(field: str, target: pb.Target) -> Target:
    match target.WhichOneof("target"):
        case "version":
            return Target(version=target.version)
        case "label":
            return Target(label=target.label)
    raise InvalidRoute(f"{field}: names neither a version nor a label", field=field)


def _fallback_to(fallback: Fallback) -> pb.Fallback:
    after = _optional(fallback.after)
    match fallback.answer:
        case Target() as target:
            return pb.Fallback(target=_target_to(target), after=after)
        case Constant(outputs):
            message = pb.Fallback(after=after, constant=pb.Constant())
            for name, value in outputs.items():
                message.constant.outputs[name].CopyFrom(_value_to(value))
            return message
        case LastGood(key, max_age):
            last = pb.LastGood(key=key, max_age=duration_to(max_age))
            return pb.Fallback(after=after, last_good=last)


def _fallback_from(field: str, fallback: pb.Fallback) -> Fallback:
    after = _span(f"{field}.after", fallback.after) if fallback.HasField("after") else None
    match fallback.WhichOneof("answer"):
        case "constant":
            within = f"{field}.constant.outputs"
            outputs = {
                name: _value_from(f"{within}.{name}", v)
                for name, v in fallback.constant.outputs.items()
            }
            return Fallback(Constant(frozen(outputs)), after)
        case "last_good":
            last = fallback.last_good
            if last.HasField("max_age"):
                max_age = _span(f"{field}.last_good.max_age", last.max_age)
                return Fallback(LastGood(last.key, max_age), after)
            return Fallback(LastGood(last.key), after)
        case _:
            return Fallback(_target_from(field, fallback.target), after)


def _value_to(value: Json) -> Value:
    match value:
        case bool():
            return Value(bool_value=value)
        case str():
            return Value(string_value=value)
        case list():
            held = Value()
            held.list_value.SetInParent()
            held.list_value.values.extend(_value_to(item) for item in value)
            return held
    return Value(number_value=value)


def _value_from(field: str, value: Value) -> Json:
    kind = value.WhichOneof("kind")
    if kind == "list_value":
        return [_value_from(field, item) for item in value.list_value.values]
    held: Any = getattr(value, kind) if kind in _SCALARS else None
    if held is None:
        raise InvalidRoute(
            f"{field}: a constant holds numbers, strings, booleans and lists of them", field=field
        )
    scalar: Json = held
    return scalar


_SCALARS = frozenset({"number_value", "string_value", "bool_value"})
