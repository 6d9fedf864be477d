"""Routes, to protobuf and back."""

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from modelyard.catalog.model import Route, Target
from modelyard.errors import InvalidName
from modelyard.gateway.v1 import route_pb2
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


def _target_to(target: Target) -> route_pb2.Target:
    if target.version:
        return route_pb2.Target(version=target.version)
    return route_pb2.Target(label=target.label)


def _target_from(target: route_pb2.Target) -> Target:
    if target.WhichOneof("target") == "version":
        return Target(version=target.version)
    return Target(label=target.label or LIVE)


def duration_to(span: timedelta) -> Duration:
    """A span of time, to protobuf."""
    duration = Duration()
    duration.FromTimedelta(span)
    return duration


def route_to(route: Route) -> route_pb2.Route:
    """A route, to protobuf."""
    return route_pb2.Route(
        name=route_name(route.model),
        default=_target_to(route.default),
        deadline=duration_to(route.deadline) if route.deadline is not None else None,
        retry=route_pb2.Retry(max_attempts=route.max_attempts) if route.max_attempts else None,
        etag=route.etag,
    )


def route_from(route: route_pb2.Route) -> Route:
    """A route, from protobuf; raises InvalidName. Its values are checked by who takes it in."""
    return Route(
        model=model_of(route.name),
        default=_target_from(route.default) if route.HasField("default") else Target(label=LIVE),
        deadline=route.deadline.ToTimedelta() if route.HasField("deadline") else None,
        max_attempts=route.retry.max_attempts if route.HasField("retry") else None,
        revision=int(route.etag) if route.etag.isdigit() else 0,
    )
