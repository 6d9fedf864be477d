"""What a route must be: each fault names its field. Pure."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from modelyard.catalog import (
    Catalog,
    Constant,
    Fallback,
    LastGood,
    Route,
    Target,
)
from modelyard.catalog.constant import response
from modelyard.errors import InvalidRoute, NotFound
from modelyard.names import LIVE, PREVIOUS

LONGEST_DEADLINE = timedelta(hours=1)
# As in gRFC A6.
MOST_ATTEMPTS = 5
MOST_TARGETS = 32
HEAVIEST = 1_000_000
# Both follow the versions by themselves: a route may name them before they point anywhere.
_FOLLOWING = frozenset({LIVE, PREVIOUS})


def check(catalog: Catalog, route: Route) -> None:
    """Raises InvalidRoute, naming the field, unless calls can be answered by the route."""
    _duration("deadline", route.deadline)
    if route.max_attempts is not None and not 1 <= route.max_attempts <= MOST_ATTEMPTS:
        raise _invalid("retry.max_attempts", f"{route.max_attempts}: from 1 to {MOST_ATTEMPTS}")
    for field in ("split", "match", "fallback", "rendezvous", "shadow"):
        if len(getattr(route, field)) > MOST_TARGETS:
            raise _invalid(field, f"more than {MOST_TARGETS}")
    _check_split(route)
    for index, match in enumerate(route.match):
        if not match.metadata:
            raise _invalid(f"match[{index}].metadata", "empty: it would fit every call")
        for key in match.metadata:
            _check_key(f"match[{index}].metadata", key)
    _check_hedge(route)
    _check_rendezvous(route)
    for index, shadow in enumerate(route.shadow):
        if not 0 < shadow.sample <= 1:
            raise _invalid(f"shadow[{index}].sample", f"{shadow.sample:g}: above 0, at most 1")
    if not 0 <= route.tap <= 1:
        raise _invalid("tap.sample", f"{route.tap:g}: above 0, at most 1")
    for field, target in route.fields():
        _check_target(catalog, route.model, field, target)
    for index, fallback in enumerate(route.fallback):
        _check_fallback(catalog, route, index, fallback)


def _check_split(route: Route) -> None:
    for index, share in enumerate(route.split):
        if not 0 <= share.weight <= HEAVIEST:
            raise _invalid(f"split[{index}].weight", f"{share.weight}: from 0 to {HEAVIEST}")
    if route.split and not any(share.weight for share in route.split):
        raise _invalid("split", "all weights are 0")
    _distinct("split", [share.target for share in route.split])
    if route.sticky:
        _check_key("sticky", route.sticky)
        if not route.split:
            raise _invalid("sticky", "there is no split that it could hold to")


def _check_hedge(route: Route) -> None:
    if route.hedge is None:
        return
    extra = route.hedge.max_extra_load
    if not (math.isfinite(extra) and 0 < extra <= 1):
        raise _invalid("hedge.max_extra_load", f"{extra:g}: above 0, at most 1")
    _duration("hedge.delay", route.hedge.delay)


def _check_rendezvous(route: Route) -> None:
    if not route.rendezvous:
        return
    if route.split:
        raise _invalid("rendezvous", "and split exclude each other")
    if len(route.rendezvous) < 2:
        raise _invalid("rendezvous", "of one version: use default")
    _distinct("rendezvous", [meeting.target for meeting in route.rendezvous])
    for index, meeting in enumerate(route.rendezvous):
        field = f"rendezvous[{index}].accept_from"
        if meeting.accept_from < timedelta():
            raise _invalid(field, "negative")
        if route.deadline is not None and meeting.accept_from >= route.deadline:
            raise _invalid(field, "not before the deadline")


def _check_fallback(catalog: Catalog, route: Route, index: int, fallback: Fallback) -> None:
    field = f"fallback[{index}]"
    if fallback.after is not None:
        if not isinstance(fallback.answer, Target):
            raise _invalid(f"{field}.after", "only a version starts after a time")
        _duration(f"{field}.after", fallback.after)
        if route.deadline is not None and fallback.after >= route.deadline:
            raise _invalid(f"{field}.after", "not before the deadline")
    match fallback.answer:
        case LastGood(key, max_age):
            _check_key(f"{field}.last_good.key", key)
            _duration(f"{field}.last_good.max_age", max_age, longest=timedelta(days=7))
        case Constant() as constant:
            if index != len(route.fallback) - 1:
                raise _invalid(field, "a constant never fails: it comes last")
            if not constant.outputs:
                raise _invalid(f"{field}.constant", "has no outputs")
            with _within(f"{field}.constant"):
                _check_constant(catalog, route, constant)


def _check_constant(catalog: Catalog, route: Route, constant: Constant) -> None:
    """It stands in for whichever version was asked, so it fits them all."""
    for field, target in route.fields():
        if field.startswith(("fallback", "shadow")):
            continue  # These are not asked first.
        try:
            version = catalog.version(catalog.pointed_at(route.model, target))
        except NotFound:
            continue  # Nothing is live yet, so there is no signature to fit.
        response(route.model, constant, version.signature, rows=1)


def _check_target(catalog: Catalog, model: str, field: str, target: Target) -> None:
    if target.label in _FOLLOWING:
        return
    with _within(field):
        catalog.pointed_at(model, target)


def _check_key(field: str, key: str) -> None:
    if not key or key != key.lower() or key.startswith("grpc-") or key.endswith("-bin"):
        raise _invalid(
            field, f"{key!r}: a metadata key in small letters, neither grpc-... nor ...-bin"
        )


def _distinct(field: str, targets: list[Target]) -> None:
    for index, target in enumerate(targets):
        if target in targets[:index]:
            raise _invalid(f"{field}[{index}]", f"names {target} again")


def _duration(field: str, span: timedelta | None, longest: timedelta = LONGEST_DEADLINE) -> None:
    if span is not None and not timedelta() < span <= longest:
        raise _invalid(field, f"{span.total_seconds():g}s: above 0s and at most {longest}")


def _invalid(field: str, fault: str) -> InvalidRoute:
    return InvalidRoute(f"{field} {fault}", field=field)


@contextmanager
def _within(field: str) -> Iterator[None]:
    """Names the field of a fault that something below found."""
    try:
        yield
    except (NotFound, InvalidRoute) as error:
        raise InvalidRoute(f"{field}: {error.message}", field=field) from None
