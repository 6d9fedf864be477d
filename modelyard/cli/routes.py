"""The route of a model, as YAML."""

import re
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any

import typer
import yaml

from modelyard.cli.options import Address, Json, Model, Note
from modelyard.cli.output import as_dict, print_json
from modelyard.client import Client
from modelyard.errors import InvalidRoute
from modelyard.gateway.v1 import route_pb2
from modelyard.names import is_version_number

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s|min|h)")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


def route(
    name: Model,
    file: Annotated[
        typer.FileText | None,
        typer.Option(
            "-f", "--file", metavar="ROUTE.yaml", help="Replace it by this; - reads stdin."
        ),
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Go back to the default one.")] = False,
    check: Annotated[bool, typer.Option("--check", help="With -f: check it only.")] = False,
    note: Note = "",
    json: Json = False,
    address: Address = None,
) -> None:
    """Print a model's route as YAML, or replace it."""
    if reset and file:
        raise typer.BadParameter("-f and --reset exclude each other")
    with Client(address) as client:
        if reset:
            client.remove_route(name, note=note)
        if file is None:
            current = client.route(name)
        else:
            wanted = parse(file.read())
            current = client.replace_route(name, wanted, validate_only=check, note=note)
    if json:
        print_json(as_dict(current))
    else:
        sys.stdout.write(dump(current))


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
    _read("", {} if tree is None else tree, _FIELDS, parsed)
    return parsed


def dump(current: route_pb2.Route) -> str:
    """Writes a route as `parse` reads it, its etag included where it has one."""
    tree: dict[str, Any] = {"default": _target(current.default)}
    if current.HasField("deadline"):
        tree["deadline"] = duration_text(current.deadline.ToTimedelta())
    if current.retry.max_attempts:
        tree["retry"] = {"max_attempts": current.retry.max_attempts}
    if current.etag:
        tree["etag"] = current.etag
    return yaml.safe_dump(tree, sort_keys=False)


def duration(field: str, value: object) -> timedelta:
    """Reads `200ms`, `1.5s`, `2min`; raises InvalidRoute."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InvalidRoute(
            f"{field}: {value!r} is no duration such as 200ms, 1.5s or 2min", field=field
        )
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def duration_text(value: timedelta) -> str:
    """Writes a duration in its largest unit that keeps it short."""
    amount = value.total_seconds()
    if amount >= 1:
        return f"{amount:g}s"
    return f"{amount * 1e3:g}ms" if amount >= 1e-3 else f"{amount * 1e6:g}us"


def _target(target: route_pb2.Target) -> dict[str, Any]:
    if target.WhichOneof("target") == "version":
        return {"version": target.version}
    return {"label": target.label or "live"}


_Reader = Callable[[str, Any, Any], None]


def _read(where: str, tree: object, fields: Mapping[str, _Reader], into: object) -> None:
    if not isinstance(tree, dict):
        raise InvalidRoute(f"{where or 'a route'} is a mapping, not {tree!r}", field=where)
    for key, value in tree.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in fields:
            known = ", ".join(fields)
            raise InvalidRoute(
                f"unknown field {path!r}; {where or 'a route'} has {known}", field=path
            )
        fields[key](path, value, into)


def _read_default(path: str, value: object, into: route_pb2.Route) -> None:
    _read(path, value, _TARGET, into.default)


def _read_deadline(path: str, value: object, into: route_pb2.Route) -> None:
    into.deadline.FromTimedelta(duration(path, value))


def _read_retry(path: str, value: object, into: route_pb2.Route) -> None:
    _read(path, value, _RETRY, into.retry)


def _read_etag(path: str, value: object, into: route_pb2.Route) -> None:
    into.etag = _text(path, value)


def _read_label(path: str, value: object, into: route_pb2.Target) -> None:
    into.label = _text(path, value)


def _read_version(path: str, value: object, into: route_pb2.Target) -> None:
    if not is_version_number(str(value)) or isinstance(value, bool):
        raise InvalidRoute(f"{path}: {value!r} is no version number", field=path)
    into.version = int(str(value))


def _read_max_attempts(path: str, value: object, into: route_pb2.Retry) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 5:
        raise InvalidRoute(f"{path}: {value!r} is not a whole number from 1 to 5", field=path)
    into.max_attempts = value


def _text(path: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidRoute(f"{path}: {value!r} is no text", field=path)
    return str(value)


_TARGET: dict[str, _Reader] = {"label": _read_label, "version": _read_version}
_RETRY: dict[str, _Reader] = {"max_attempts": _read_max_attempts}
_FIELDS: dict[str, _Reader] = {
    "default": _read_default,
    "deadline": _read_deadline,
    "retry": _read_retry,
    "etag": _read_etag,
}
