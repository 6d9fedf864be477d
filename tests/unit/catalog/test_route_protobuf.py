"""Routes, to protobuf and back."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.catalog import (
    Constant,
    Fallback,
    Hedge,
    LastGood,
    Match,
    Rendezvous,
    Route,
    Shadow,
    Share,
    Target,
)
from modelyard.catalog.convert_route import model_of, route_from, route_name, route_to
from modelyard.catalog.route import Json
from modelyard.errors import InvalidName, InvalidRoute
from modelyard.gateway.v1 import route_pb2 as pb

NAME = "models/digits/route"

spans = st.timedeltas(timedelta(microseconds=1), timedelta(days=7))
texts = st.text(st.characters(codec="utf-8"), max_size=10)
keys = st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True)
targets = st.one_of(
    st.builds(Target, version=st.integers(1, 2**63 - 1)),
    st.builds(lambda label: Target(label=label), keys),
)
scalars = st.one_of(st.booleans(), st.floats(allow_nan=False), st.integers(-(2**53), 2**53), texts)
values: st.SearchStrategy[Json] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=8
)
answers = st.one_of(
    targets,
    st.builds(Constant, st.dictionaries(texts, values, max_size=3)),
    st.builds(LastGood, key=keys, max_age=spans),
)
routes = st.builds(
    Route,
    model=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    default=targets,
    deadline=st.none() | spans,
    max_attempts=st.none() | st.integers(1, 5),
    split=st.lists(st.builds(Share, targets, st.integers(0, 1_000_000)), max_size=3).map(tuple),
    sticky=st.just("") | keys,
    match=st.lists(
        st.builds(Match, st.dictionaries(keys, texts, max_size=3), targets), max_size=3
    ).map(tuple),
    hedge=st.none() | st.builds(Hedge, st.floats(0.0, 1.0), st.none() | spans),
    fallback=st.lists(st.builds(Fallback, answers, st.none() | spans), max_size=3).map(tuple),
    rendezvous=st.lists(
        st.builds(Rendezvous, targets, st.just(timedelta()) | spans), max_size=3
    ).map(tuple),
    shadow=st.lists(st.builds(Shadow, targets, st.floats(0.0, 1.0)), max_size=3).map(tuple),
    tap=st.floats(0.0, 1.0),
    revision=st.integers(0, 2**63),
)


@settings(max_examples=200, deadline=None)
@given(routes)
def test_what_is_sent_is_what_arrives(route: Route) -> None:
    sent = route_to(route)
    assert route_from(sent) == route
    assert route_from(pb.Route.FromString(sent.SerializeToString())) == route
    assert route_to(route_from(sent)) == sent


def test_the_name_and_the_etag() -> None:
    sent = route_to(Route("digits", revision=7))
    assert (sent.name, sent.etag) == (NAME, "7")


def test_what_is_not_set_takes_the_default() -> None:
    assert route_from(pb.Route(name=NAME)) == Route("digits")
    last_good = pb.Fallback(last_good=pb.LastGood(key="user"))
    route = route_from(pb.Route(name=NAME, fallback=[last_good]))
    assert route.fallback == (Fallback(LastGood("user", timedelta(minutes=10))),)
    assert route_from(pb.Route(name=NAME, hedge=pb.Hedge())).hedge == Hedge(0.0)


def test_what_arrives_cannot_be_changed() -> None:
    constant = Constant({"y": 0.5})
    route = Route("m", match=(Match({"x": "y"}, Target(1)),), fallback=(Fallback(constant),))
    arrived = route_from(route_to(route))
    answer = arrived.fallback[0].answer
    assert isinstance(answer, Constant)
    for held in (arrived.match[0].metadata, answer.outputs):
        with pytest.raises(TypeError):
            held["x"] = "z"  # type: ignore[index]


@pytest.mark.parametrize(
    ("route", "field"),
    [
        (pb.Route(default=pb.Target()), "default"),
        (pb.Route(split=[pb.Share(target=pb.Target(version=1)), pb.Share(weight=1)]), "split[1]"),
        (pb.Route(match=[pb.Match(metadata={"x": "y"})]), "match[0]"),
        (pb.Route(fallback=[pb.Fallback()]), "fallback[0]"),
        (pb.Route(fallback=[pb.Fallback(target=pb.Target())]), "fallback[0]"),
        (pb.Route(rendezvous=[pb.Rendezvous()]), "rendezvous[0]"),
        (pb.Route(shadow=[pb.Shadow(sample=0.5)]), "shadow[0]"),
    ],
)
def test_a_target_that_names_nothing_is_refused(route: pb.Route, field: str) -> None:
    route.name = NAME
    with pytest.raises(InvalidRoute, match="names neither a version nor a label") as refused:
        route_from(route)
    assert refused.value.metadata == {"field": field}


def constant_of(kind: str) -> pb.Route:
    route = pb.Route(name=NAME, fallback=[pb.Fallback(constant=pb.Constant())])
    held = route.fallback[0].constant.outputs["y"]
    if kind == "null":
        held.null_value = 0  # type: ignore[assignment]
    elif kind == "struct":
        held.struct_value.update({"a": 1})
    elif kind == "inner null":
        held.list_value.values.add().null_value = 0  # type: ignore[assignment]
    return route


@pytest.mark.parametrize("kind", ["nothing", "null", "struct", "inner null"])
def test_a_constant_holds_no_objects(kind: str) -> None:
    with pytest.raises(InvalidRoute, match="numbers, strings, booleans and lists"):
        route_from(constant_of(kind))


def test_a_constant_of_an_object_names_its_field() -> None:
    with pytest.raises(InvalidRoute) as refused:
        route_from(constant_of("struct"))
    assert refused.value.metadata["field"].startswith("fallback[0]")


@pytest.mark.parametrize(
    "name",
    ["", "digits", "models/digits", "models/digits/routes", "models//route", "models/-/route"],
)
def test_only_routes_are_named_as_routes(name: str) -> None:
    with pytest.raises(InvalidName):
        model_of(name)


def test_names_there_and_back() -> None:
    assert model_of(route_name("digits")) == "digits"


@pytest.mark.parametrize("etag", ["", "x", "-1", "1.5"])
def test_an_etag_that_is_no_revision_is_none(etag: str) -> None:
    assert route_from(pb.Route(name=NAME, etag=etag)).revision == 0


@pytest.mark.parametrize("etag", ["\N{SUPERSCRIPT TWO}", "9" * 5000])
def test_an_etag_of_strange_digits_is_none(etag: str) -> None:
    assert route_from(pb.Route(name=NAME, etag=etag)).revision == 0


@pytest.mark.parametrize("seconds", [2**62, 10**14])
def test_a_span_of_time_that_nobody_can_wait_is_refused(seconds: int) -> None:
    route = pb.Route(name=NAME)
    route.deadline.seconds = seconds
    with pytest.raises(InvalidRoute):
        route_from(route)
