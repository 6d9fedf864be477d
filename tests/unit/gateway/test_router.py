"""The router: what a call is planned to be, by its route and by its contract."""

from datetime import UTC, datetime

import pytest

from gateway.call import Call
from gateway.compiler import direct
from gateway.plan import Kind
from gateway.router import Router
from gateway.sequences import Sequence
from modelyard.catalog import (
    Catalog,
    Fallback,
    Hedge,
    Label,
    Match,
    Model,
    Rendezvous,
    Route,
    Share,
    Signature,
    Target,
    Version,
)
from modelyard.catalog.model import frozen
from modelyard.contracts import repeatable
from modelyard.errors import SequenceLost, VersionNotFound
from modelyard.inference.v2 import open_inference_pb2
from modelyard.names import VersionName

NOW = datetime(2026, 1, 1, tzinfo=UTC)
V1, V2, V3 = (VersionName("m", number) for number in (1, 2, 3))
LIVE, CANARY, SMALL = Target(label="live"), Target(label="canary"), Target(label="small")


def catalog(route: Route | None = None, revision: int = 7, live: int = 1) -> Catalog:
    versions = {v.number: Version(v, "sha256:0", (), Signature(), NOW) for v in (V1, V2, V3)}
    points = {"live": live, "canary": 2, "small": 3}
    labels = {name: Label(name, number, 1, NOW) for name, number in points.items()}
    model = Model("m", NOW, frozen(versions), frozen(labels))
    return Catalog(revision, frozen({"m": model}), frozen({"m": route} if route else {}))


def router(held: Catalog, **options: bool) -> Router:
    return Router(lambda: held, lambda: 0.0, 30.0, 3, **options)


def call(selector: str = "", **metadata: str) -> Call:
    sent = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
    return Call("m", selector, b"", 1.0, "r", sent)


def targets(held: Catalog, asked: Call) -> list[tuple[str, int]]:
    plan = router(held).plan(asked)
    return [(a.kind.value, a.target.number if a.target else 0) for a in plan.attempts]


def test_the_first_match_wins_then_stickiness_then_the_split() -> None:
    held = catalog(
        Route(
            "m",
            max_attempts=1,
            match=(Match({"x-region": "eu"}, SMALL), Match({"x-region": "*"}, CANARY)),
            split=(Share(LIVE, 1), Share(CANARY, 0)),
            sticky="x-user",
        )
    )
    assert targets(held, call(x_region="eu")) == [("primary", 3)]
    assert targets(held, call(x_region="us")) == [("primary", 2)]
    assert targets(held, call(x_user="a")) == [("primary", 1)]
    assert targets(held, call()) == [("primary", 1)]


def test_who_names_a_version_gets_that_one_alone() -> None:
    held = catalog(Route("m", max_attempts=2, hedge=Hedge(0.1), fallback=(Fallback(SMALL),)))
    want = [("primary", 2), ("retry", 2), ("hedge", 2)]
    assert targets(held, call("2")) == want
    assert targets(held, call("canary")) == want
    with pytest.raises(VersionNotFound):
        router(held).plan(call("9"))


def test_a_rendezvous_hedges_the_best_alone() -> None:
    meeting = (Rendezvous(CANARY), Rendezvous(LIVE))
    held = catalog(Route("m", max_attempts=1, hedge=Hedge(0.1), rendezvous=meeting))
    assert targets(held, call()) == [("rendezvous", 2), ("hedge", 2), ("rendezvous", 1)]


def test_a_fallback_that_is_asked_already_is_left_out() -> None:
    fallback = (Fallback(LIVE), Fallback(Target(label="previous")), Fallback(SMALL))
    held = catalog(Route("m", max_attempts=1, fallback=fallback))
    assert targets(held, call()) == [("primary", 1), ("fallback", 3)]


def test_a_plan_follows_its_labels() -> None:
    current = catalog(Route("m", max_attempts=1))
    found = Router(lambda: current, lambda: 0.0, 30.0, 3)
    assert found.plan(call()).attempts[0].target == V1
    current = catalog(Route("m", max_attempts=1), revision=8, live=2)
    assert found.plan(call()).attempts[0].target == V2


def test_a_call_with_side_effects_is_made_once() -> None:
    held = catalog(Route("m", hedge=Hedge(0.5), fallback=(Fallback(SMALL),)))
    plan = router(held, repeatable=False).plan(call())
    assert [a.kind for a in plan.attempts] == [Kind.PRIMARY, Kind.FALLBACK]


def test_inference_has_no_side_effects_and_changes_have() -> None:
    service = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert repeatable(service.methods_by_name["ModelInfer"])
    assert not repeatable(service.methods_by_name["RepositoryModelLoad"])


def test_a_sequence_is_made_once_where_it_began() -> None:
    held = catalog(Route("m", hedge=Hedge(0.5), split=(Share(LIVE, 1), Share(CANARY, 1))))
    found = router(held)

    def part(start: bool = False, end: bool = False) -> Call:
        asked = call()
        asked.sequence = Sequence(7, start, end)
        return asked

    with pytest.raises(SequenceLost):
        found.plan(part())
    first = part(start=True)
    assert found.plan(first) == direct(first.target or V3, 1)
    found.began(first, "host-a")
    later = part()
    found.plan(later)
    assert (later.target, later.host) == (first.target, "host-a")
    last = part(end=True)
    found.plan(last)
    found.began(last, "host-a")
    with pytest.raises(SequenceLost):
        found.plan(part())


def test_a_route_that_is_only_tried_takes_no_turn_of_the_one_that_holds() -> None:
    shares = (Share(LIVE, 1), Share(CANARY, 1))
    live = Route("m", split=shares, revision=3)
    held = catalog(live)
    routing = router(held)
    tried = Route("m", split=(Share(SMALL, 1), Share(CANARY, 0)), revision=3)
    asked = [routing.plan(call()).attempts[0].target for _ in range(3)]
    assert routing.choose(held, tried, "m", "", ()).legs[0][0] == V3
    asked += [routing.plan(call()).attempts[0].target for _ in range(3)]
    assert [asked.count(version) for version in (V1, V2, V3)] == [3, 3, 0]
    assert asked == [V1, V2] * 3 or asked == [V2, V1] * 3
