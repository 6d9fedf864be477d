"""Reads the plan of an evaluation from what a person types."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from modelyard.cli.route_yaml import duration
from modelyard.errors import InvalidArgument, InvalidRoute
from modelyard.shadow.v1 import evaluation_pb2 as pb

_GATE = re.compile(r"(difference|errors|latency|loss)(?::([^@=]+))?(?:@([0-9.]+))?=(-?[0-9.]+)")
_KINDS = {
    "difference": pb.Gate.KIND_DIFFERENCE,
    "errors": pb.Gate.KIND_ERRORS,
    "latency": pb.Gate.KIND_LATENCY,
    "loss": pb.Gate.KIND_LOSS,
}
_AGO = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(s|min|h|d)")
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}


def gate(text: str) -> pb.Gate:
    """Reads `difference=0.02`, `difference:label=0.01`, `latency@0.99=1.5`, `loss=0`.

    Raises:
        InvalidArgument: It is none of them.
    """
    match = _GATE.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        kind, output, quantile, margin = match.groups()
        if quantile and kind != "latency":
            raise ValueError
        return pb.Gate(
            kind=_KINDS[kind],
            output=output or "",
            quantile=float(quantile) if quantile else 0.0,
            margin=float(margin),
        )
    except ValueError:
        raise InvalidArgument(
            f"--gate {text!r} is not of the form difference=0.02, difference:OUTPUT=0.01,"
            " errors=0.005, latency@0.99=1.5 or loss=0",
            field="gates",
        ) from None


def settings(option: str, given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Reads `OUTPUT=KIND` or `OUTPUT={"kind": ..., ...}`; raises InvalidArgument."""
    found: dict[str, dict[str, Any]] = {}
    for text in given:
        output, equals, told = text.partition("=")
        try:
            tree = json.loads(told) if told.startswith("{") else {"kind": told}
        except json.JSONDecodeError:
            tree = None
        if not output or not equals or not told or not isinstance(tree, dict):
            raise InvalidArgument(
                f'{option} {text!r} is not of the form OUTPUT=KIND or OUTPUT={{"kind": ...}}'
            )
        found[output] = tree
    return found


def moment(option: str, text: str, now: datetime) -> datetime:
    """Reads a time such as 2026-03-01T12:00, in the person's zone, or `2h` for two hours ago.

    Raises:
        InvalidArgument: It is neither.
    """
    if match := _AGO.fullmatch(text):
        return now - timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise InvalidArgument(
            f"{option} {text!r} is neither a time such as 2026-03-01T12:00 nor a while such as 2h"
        ) from None


def span(option: str, text: str) -> timedelta:
    """Reads `90s`, `5min`, `12h`, `7d`; raises InvalidArgument."""
    if match := _AGO.fullmatch(text):
        return timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    try:
        return duration(option, text)
    except InvalidRoute as error:
        raise InvalidArgument(error.message) from None


def value(argument: str, text: str) -> Any:
    """Reads JSON; raises InvalidArgument."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidArgument(f"{argument!r}: {error}") from None
