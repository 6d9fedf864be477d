"""What a route must be, by table: every fault, with the field that it names."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from modelyard.catalog import (
    Catalog,
    Constant,
    Fallback,
    Hedge,
    Label,
    LastGood,
    Match,
    Model,
    Rendezvous,
    Route,
    Shadow,
    Share,
    Signature,
    Target,
    Tensor,
    Version,
)
from modelyard.catalog.check import HEAVIEST, LONGEST_DEADLINE, MOST_TARGETS, check
from modelyard.catalog.model import frozen
from modelyard.errors import InvalidRoute
from modelyard.names import VersionName

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIVE, CANARY, PREVIOUS = Target(label="live"), Target(label="canary"), Target(label="previous")
V1, V2, V3, V9 = Target(1), Target(2), Target(3), Target(9)
HALF = Constant({"y": [0.5, 0.5]})


def ms(count: float) -> timedelta:
    return timedelta(milliseconds=count)


def catalogue(**labels: int) -> Catalog:
    """A model of three versions, with such labels; its outputs are `y`, two numbers a row."""
    signature = Signature((), (Tensor("y", "FP32", ("n", 2)),))
    versions = {
        n: Version(VersionName("digits", n), "sha256:0", (), signature, NOW) for n in (1, 2, 3)
    }
    held = {name: Label(name, number, 1, NOW) for name, number in labels.items()}
    model = Model("digits", NOW, frozen(versions), frozen(held), 3)
    return Catalog(1, frozen({"digits": model}))


CATALOG = catalogue(live=1, canary=2)
NOTHING_LIVE = catalogue()

BIG = Route(
    "digits",
    default=LIVE,
    deadline=ms(200),
    max_attempts=2,
    split=(Share(LIVE, 95), Share(CANARY, 5)),
    sticky="x-user-id",
    match=(Match({"x-tenant": "acme", "x-beta": "*"}, V3),),
    hedge=Hedge(0.02, ms(15)),
    fallback=(
        Fallback(PREVIOUS, ms(80)),
        Fallback(V2),
        Fallback(LastGood("x-user-id", timedelta(minutes=5))),
        Fallback(HALF),
    ),
    shadow=(Shadow(V3, 0.1),),
)
MEETING = Route(
    "digits",
    deadline=ms(200),
    rendezvous=(Rendezvous(V3), Rendezvous(V2, ms(80)), Rendezvous(LIVE, ms(199))),
)


@pytest.mark.parametrize(
    "route",
    [
        pytest.param(Route("digits"), id="the default one"),
        pytest.param(BIG, id="everything at once"),
        pytest.param(MEETING, id="a rendezvous"),
        pytest.param(replace(MEETING, deadline=None), id="a rendezvous without a deadline"),
        pytest.param(Route("digits", default=V2), id="a version by number"),
        pytest.param(Route("digits", deadline=LONGEST_DEADLINE), id="the longest deadline"),
        pytest.param(Route("digits", max_attempts=1), id="no retries"),
        pytest.param(Route("digits", max_attempts=5), id="most retries"),
        pytest.param(Route("digits", split=(Share(V1, 0), Share(V2, HEAVIEST))), id="no canary"),
        pytest.param(Route("digits", hedge=Hedge(1.0)), id="hedges as many as calls"),
        pytest.param(Route("digits", shadow=(Shadow(V2, 1.0),)), id="all calls in the shadow"),
        pytest.param(Route("digits", fallback=(Fallback(PREVIOUS),)), id="before there is one"),
        pytest.param(
            Route("digits", match=tuple(Match({"x": str(n)}, V1) for n in range(MOST_TARGETS))),
            id="as many as may be",
        ),
        pytest.param(
            Route("digits", fallback=(Fallback(LastGood("x", timedelta(days=7))),)),
            id="remembered for a week",
        ),
    ],
)
def test_a_valid_route_passes(route: Route) -> None:
    check(CATALOG, route)


def many(thing: object) -> tuple:
    return (thing,) * (MOST_TARGETS + 1)


@pytest.mark.parametrize(
    ("changes", "field", "complaint"),
    [
        # Times.
        ({"deadline": ms(0)}, "deadline", "deadline 0s: above 0s and at most 1:00:00"),
        ({"deadline": ms(-5)}, "deadline", "-0.005s: above 0s"),
        ({"deadline": LONGEST_DEADLINE + ms(1)}, "deadline", "at most 1:00:00"),
        ({"hedge": Hedge(0.02, ms(0))}, "hedge.delay", "above 0s"),
        ({"fallback": (Fallback(V2, ms(0)),)}, "fallback[0].after", "above 0s"),
        (
            {"fallback": (Fallback(V2), Fallback(V3, timedelta(hours=2)))},
            "fallback[1].after",
            "at most 1:00:00",
        ),
        (
            {"deadline": ms(100), "fallback": (Fallback(V2, ms(100)),)},
            "fallback[0].after",
            "not before the deadline",
        ),
        # Retries and hedges.
        ({"max_attempts": 0}, "retry.max_attempts", "0: from 1 to 5"),
        ({"max_attempts": 6}, "retry.max_attempts", "6: from 1 to 5"),
        ({"max_attempts": -1}, "retry.max_attempts", "-1: from 1 to 5"),
        ({"hedge": Hedge(0.0)}, "hedge.max_extra_load", "0: above 0, at most 1"),
        ({"hedge": Hedge(-0.1)}, "hedge.max_extra_load", "above 0, at most 1"),
        ({"hedge": Hedge(1.01)}, "hedge.max_extra_load", "1.01: above 0, at most 1"),
        ({"hedge": Hedge(float("nan"))}, "hedge.max_extra_load", "nan: above 0"),
        ({"hedge": Hedge(float("inf"))}, "hedge.max_extra_load", "inf: above 0"),
        # How many.
        ({"split": many(Share(V1, 1))}, "split", "more than 32"),
        ({"match": many(Match({"x": "y"}, V1))}, "match", "more than 32"),
        ({"fallback": many(Fallback(V1))}, "fallback", "more than 32"),
        ({"rendezvous": many(Rendezvous(V1))}, "rendezvous", "more than 32"),
        ({"shadow": many(Shadow(V1, 0.5))}, "shadow", "more than 32"),
        # Splits.
        ({"split": (Share(V1, 1), Share(V2, -1))}, "split[1].weight", "-1: from 0 to 1000000"),
        ({"split": (Share(V1, HEAVIEST + 1),)}, "split[0].weight", "from 0 to 1000000"),
        ({"split": (Share(V1, 0), Share(V2, 0))}, "split", "all weights are 0"),
        ({"split": (Share(V1, 1), Share(V2, 1), Share(V1, 2))}, "split[2]", "names 1 again"),
        ({"split": (Share(LIVE, 1), Share(LIVE, 1))}, "split[1]", "names live again"),
        ({"sticky": "x-user"}, "sticky", "no split that it could hold to"),
        ({"split": (Share(V1, 1),), "sticky": "X-User"}, "sticky", "in small letters"),
        ({"split": (Share(V1, 1),), "sticky": "grpc-timeout"}, "sticky", "neither grpc-..."),
        ({"split": (Share(V1, 1),), "sticky": "user-bin"}, "sticky", "nor ...-bin"),
        # Matches.
        ({"match": (Match({}, V1),)}, "match[0].metadata", "it would fit every call"),
        ({"match": (Match({"": "x"}, V1),)}, "match[0].metadata", "a metadata key"),
        (
            {"match": (Match({"x": "y"}, V1), Match({"x": "y", "User": "z"}, V1))},
            "match[1].metadata",
            "'User': a metadata key in small letters",
        ),
        # Rendezvous.
        ({"rendezvous": (Rendezvous(V1),)}, "rendezvous", "of one version: use default"),
        (
            {"rendezvous": (Rendezvous(V1), Rendezvous(V2)), "split": (Share(V1, 1),)},
            "rendezvous",
            "exclude each other",
        ),
        (
            {"rendezvous": (Rendezvous(V1), Rendezvous(V2), Rendezvous(V1, ms(5)))},
            "rendezvous[2]",
            "names 1 again",
        ),
        (
            {"rendezvous": (Rendezvous(V1), Rendezvous(V2, ms(-1)))},
            "rendezvous[1].accept_from",
            "negative",
        ),
        (
            {"deadline": ms(100), "rendezvous": (Rendezvous(V1), Rendezvous(V2, ms(100)))},
            "rendezvous[1].accept_from",
            "not before the deadline",
        ),
        # Shadows.
        ({"shadow": (Shadow(V1, 0.5), Shadow(V2, 0.0))}, "shadow[1].sample", "0: above 0"),
        ({"shadow": (Shadow(V1, 1.5),)}, "shadow[0].sample", "1.5: above 0, at most 1"),
        ({"shadow": (Shadow(V1, float("nan")),)}, "shadow[0].sample", "nan: above 0"),
        # Versions and labels.
        ({"default": V9}, "default", "'digits' version 9 is not found"),
        ({"default": Target(label="stable")}, "default", "version stable is not found"),
        ({"default": Target()}, "default", "is not found"),
        ({"default": Target(-1)}, "default", "version -1 is not found"),
        ({"split": (Share(V1, 1), Share(V9, 1))}, "split[1]", "version 9 is not found"),
        ({"match": (Match({"x": "y"}, V9),)}, "match[0]", "version 9 is not found"),
        ({"fallback": (Fallback(V1), Fallback(V9))}, "fallback[1]", "version 9 is not found"),
        (
            {"rendezvous": (Rendezvous(V1), Rendezvous(V9))},
            "rendezvous[1]",
            "version 9 is not found",
        ),
        ({"shadow": (Shadow(V9, 0.5),)}, "shadow[0]", "version 9 is not found"),
        # Defaults.
        (
            {"fallback": (Fallback(HALF, ms(10)),)},
            "fallback[0].after",
            "only a version starts after a time",
        ),
        (
            {"fallback": (Fallback(LastGood("x"), ms(10)),)},
            "fallback[0].after",
            "only a version starts after a time",
        ),
        (
            {"fallback": (Fallback(HALF), Fallback(V2))},
            "fallback[0]",
            "a constant never fails: it comes last",
        ),
        ({"fallback": (Fallback(Constant({})),)}, "fallback[0].constant", "has no outputs"),
        (
            {"fallback": (Fallback(V2), Fallback(Constant({"z": 0.5})))},
            "fallback[1].constant",
            "output 'z': the model has y",
        ),
        (
            {"fallback": (Fallback(Constant({"y": [0.5]})),)},
            "fallback[0].constant",
            r"its shape is \[1, 1\], the model's \['n', 2\]",
        ),
        (
            {"fallback": (Fallback(Constant({"y": ["a", "b"]})),)},
            "fallback[0].constant",
            "'y': not FP32",
        ),
        ({"fallback": (Fallback(LastGood("")),)}, "fallback[0].last_good.key", "a metadata key"),
        (
            {"fallback": (Fallback(LastGood("User")),)},
            "fallback[0].last_good.key",
            "in small letters",
        ),
        (
            {"fallback": (Fallback(LastGood("x", ms(0))),)},
            "fallback[0].last_good.max_age",
            "above 0s and at most 7 days",
        ),
        (
            {"fallback": (Fallback(LastGood("x", timedelta(days=8))),)},
            "fallback[0].last_good.max_age",
            "at most 7 days",
        ),
    ],
)
def test_a_fault_names_its_field(changes: dict, field: str, complaint: str) -> None:
    with pytest.raises(InvalidRoute, match=complaint) as refused:
        check(CATALOG, replace(Route("digits"), **changes))
    assert refused.value.metadata == {"field": field}
    assert refused.value.message.startswith(field)


def test_a_route_of_no_model() -> None:
    # What follows `live` may be named before it is there; anything else may not.
    with pytest.raises(InvalidRoute, match="model: 'other' is not found") as refused:
        check(CATALOG, Route("other", default=V1))
    assert refused.value.metadata == {"field": "default"}


def test_live_and_previous_may_be_named_before_they_point_anywhere() -> None:
    check(NOTHING_LIVE, Route("digits", fallback=(Fallback(PREVIOUS), Fallback(LIVE))))
    with pytest.raises(InvalidRoute):
        check(NOTHING_LIVE, Route("digits", fallback=(Fallback(CANARY),)))


def test_a_constant_is_checked_once_there_is_a_signature() -> None:
    route = Route("digits", fallback=(Fallback(Constant({"z": 0.5})),))
    check(NOTHING_LIVE, route)
    with pytest.raises(InvalidRoute):
        check(CATALOG, route)
    with pytest.raises(InvalidRoute):
        check(NOTHING_LIVE, replace(route, default=V3))


def test_a_number_where_a_text_belongs_names_the_constant() -> None:
    model = CATALOG.models["digits"]
    text = Signature((), (Tensor("y", "BYTES", ("n",)),))
    versions = frozen({n: replace(v, signature=text) for n, v in model.versions.items()})
    catalog = Catalog(1, frozen({"digits": replace(model, versions=versions)}))
    with pytest.raises(InvalidRoute) as refused:
        check(catalog, Route("digits", fallback=(Fallback(Constant({"y": 0.5})),)))
    assert refused.value.metadata == {"field": "fallback[0].constant"}
