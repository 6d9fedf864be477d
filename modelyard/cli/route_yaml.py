"""Routes as YAML: read with faults that name their field, and written as they are read."""

import math
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import yaml
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.struct_pb2 import Value

from modelyard.errors import InvalidRoute
from modelyard.gateway.v1 import route_pb2
from modelyard.names import is_version_number

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s|min|h)")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


def parse(text: str) -> route_pb2.Route:
    """Reads a route.

    Raises:
        InvalidRoute: It is no YAML, or a field is unknown or of another type; the text names it.
    """
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise InvalidRoute(f"this is no YAML{line}") from None
    parsed = route_pb2.Route()
    _read("", {} if tree is None else tree, _ROUTE, parsed)
    return parsed


def dump(route: route_pb2.Route) -> str:
    """Writes a route as `parse` reads it, its etag included where it has one."""
    tree: dict[str, Any] = {"default": _target(route.default) or {"label": "live"}}
    if route.split:
        tree["split"] = [{**_target(s.target), "weight": s.weight} for s in route.split]
    if route.sticky:
        tree["sticky"] = route.sticky
    if route.match:
        tree["match"] = [
            {"metadata": dict(sorted(m.metadata.items())), **_target(m.target)} for m in route.match
        ]
    if route.HasField("deadline"):
        tree["deadline"] = _text_of(route.deadline)
    if route.retry.max_attempts:
        tree["retry"] = {"max_attempts": route.retry.max_attempts}
    if route.HasField("hedge"):
        tree["hedge"] = {"max_extra_load": route.hedge.max_extra_load}
        if route.hedge.HasField("delay"):
            tree["hedge"]["delay"] = _text_of(route.hedge.delay)
    if route.fallback:
        tree["fallback"] = [_fallback(fallback) for fallback in route.fallback]
    if route.rendezvous:
        tree["rendezvous"] = [rendezvous_tree(meeting) for meeting in route.rendezvous]
    if route.shadow:
        tree["shadow"] = [{**_target(s.target), "sample": s.sample} for s in route.shadow]
    if route.HasField("tap"):
        tree["tap"] = {"sample": route.tap.sample}
    if route.etag:
        tree["etag"] = route.etag
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None)


def rendezvous_tree(meeting: route_pb2.Rendezvous) -> dict[str, Any]:
    """One version of a rendezvous, as YAML has it."""
    tree = _target(meeting.target)
    if meeting.accept_from.ToTimedelta():
        tree["accept_from"] = _text_of(meeting.accept_from)
    return tree


def duration(field: str, value: object) -> timedelta:
    """Reads `200ms`, `1.5s`, `2min`; raises InvalidRoute."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InvalidRoute(
            f"{field}: {value!r} is no duration such as 200ms, 1.5s or 2min", field=field
        )
    try:
        return timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    except OverflowError:
        raise InvalidRoute(f"{field}: {value!r} is no time to wait", field=field) from None


def duration_text(value: timedelta) -> str:
    """Writes a duration in its largest unit that keeps it short."""
    micros = round(value / timedelta(microseconds=1))
    unit, size = "us", 1
    if micros >= 1_000_000:
        unit, size = "s", 1_000_000
    elif micros >= 1_000:
        unit, size = "ms", 1_000
    return f"{micros / size:.6f}".rstrip("0").rstrip(".") + unit


def _text_of(value: Duration) -> str:
    return duration_text(value.ToTimedelta())


def _target(target: route_pb2.Target) -> dict[str, Any]:
    match target.WhichOneof("target"):
        case "version":
            return {"version": target.version}
        case "label":
            return {"label": target.label}
    return {}


def _fallback(fallback: route_pb2.Fallback) -> dict[str, Any]:
    match fallback.WhichOneof("answer"):
        case "constant":
            outputs = fallback.constant.outputs
            return {"default": {name: MessageToDict(outputs[name]) for name in sorted(outputs)}}
        case "last_good":
            last: dict[str, Any] = {"key": fallback.last_good.key}
            if fallback.last_good.HasField("max_age"):
                last["max_age"] = _text_of(fallback.last_good.max_age)
            return {"last_good": last}
    tree = _target(fallback.target)
    if fallback.HasField("after"):
        tree["after"] = _text_of(fallback.after)
    return tree


_Reader = Callable[[str, Any, Any], None]
# Of these a target or a fallback has one.
_ANSWERS = ("label", "version", "default", "last_good")


def _read(where: str, tree: object, fields: Mapping[str, _Reader], into: object) -> None:
    if not isinstance(tree, dict):
        raise InvalidRoute(f"{where or 'a route'} is a mapping, not {tree!r}", field=where)
    answers = [key for key in tree if key in _ANSWERS]
    if where and len(answers) > 1:
        raise InvalidRoute(f"{where} has {' and '.join(answers)}: only one may answer", field=where)
    for key, value in tree.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in fields:
            known = ", ".join(fields)
            raise InvalidRoute(
                f"unknown field {path!r}; {where or 'a route'} has {known}", field=path
            )
        fields[key](path, value, into)


def _message(field: str, fields: Mapping[str, _Reader]) -> _Reader:
    """Reads a mapping into a field that is a message."""

    def read(path: str, value: object, into: Any) -> None:
        held = getattr(into, field)
        held.SetInParent()
        _read(path, value, fields, held)

    return read


def _list(field: str, fields: Mapping[str, _Reader]) -> _Reader:
    """Reads a list of mappings into a repeated field."""

    def read(path: str, value: object, into: Any) -> None:
        if not isinstance(value, list):
            raise InvalidRoute(f"{path} is a list, not {value!r}", field=path)
        for index, item in enumerate(value):
            _read(f"{path}[{index}]", item, fields, getattr(into, field).add())

    return read


def _duration(field: str) -> _Reader:
    def read(path: str, value: object, into: Any) -> None:
        getattr(into, field).FromTimedelta(duration(path, value))

    return read


def _text(field: str) -> _Reader:
    def read(path: str, value: object, into: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InvalidRoute(f"{path}: {value!r} is no text", field=path)
        setattr(into, field, str(value))

    return read


def _share(field: str) -> _Reader:
    def read(path: str, value: object, into: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise InvalidRoute(f"{path}: {value!r} is no number above 0, at most 1", field=path)
        setattr(into, field, value)

    return read


def _whole(field: str, least: int, most: int) -> _Reader:
    def read(path: str, value: object, into: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidRoute(
                f"{path}: {value!r} is not a whole number from {least} to {most}", field=path
            )
        setattr(into, field, value)

    return read


def _read_version(path: str, value: object, into: Any) -> None:
    if not is_version_number(str(value)) or isinstance(value, bool):
        raise InvalidRoute(f"{path}: {value!r} is no version number", field=path)
    into.version = int(str(value))


def _read_metadata(path: str, value: object, into: route_pb2.Match) -> None:
    if not isinstance(value, dict) or not all(
        isinstance(part, str) for pair in value.items() for part in pair
    ):
        raise InvalidRoute(f"{path}: {value!r} is no mapping of texts", field=path)
    into.metadata.update(value)


def _is_finite(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _read_constant(path: str, value: object, into: route_pb2.Fallback) -> None:
    if not isinstance(value, dict):
        raise InvalidRoute(f"{path} is a mapping of outputs, not {value!r}", field=path)
    into.constant.SetInParent()
    for name, held in value.items():
        where = f"{path}.{name}"
        if not _is_finite(held):
            raise InvalidRoute(f"{where}: {held!r} is no finite number", field=where)
        try:
            into.constant.outputs[str(name)].CopyFrom(ParseDict(held, Value()))
        except ParseError:
            raise InvalidRoute(
                f"{where}: {held!r} is no number, text or list", field=where
            ) from None


_TARGET: dict[str, _Reader] = {"label": _text("label"), "version": _read_version}


def _aimed(more: dict[str, _Reader]) -> dict[str, _Reader]:
    """The fields of a message that has a target, whose own stand beside them."""

    def within(read: _Reader) -> _Reader:
        return lambda path, value, into: read(path, value, into.target)

    return {**{name: within(read) for name, read in _TARGET.items()}, **more}


_LAST_GOOD: dict[str, _Reader] = {"key": _text("key"), "max_age": _duration("max_age")}
_ROUTE: dict[str, _Reader] = {
    "default": _message("default", _TARGET),
    "split": _list("split", _aimed({"weight": _whole("weight", 0, 1_000_000)})),
    "sticky": _text("sticky"),
    "match": _list("match", _aimed({"metadata": _read_metadata})),
    "deadline": _duration("deadline"),
    "retry": _message("retry", {"max_attempts": _whole("max_attempts", 1, 5)}),
    "hedge": _message(
        "hedge", {"max_extra_load": _share("max_extra_load"), "delay": _duration("delay")}
    ),
    "fallback": _list(
        "fallback",
        _aimed(
            {
                "after": _duration("after"),
                "default": _read_constant,
                "last_good": _message("last_good", _LAST_GOOD),
            }
        ),
    ),
    "rendezvous": _list("rendezvous", _aimed({"accept_from": _duration("accept_from")})),
    "shadow": _list("shadow", _aimed({"sample": _share("sample")})),
    "tap": _message("tap", {"sample": _share("sample")}),
    "etag": _text("etag"),
}
