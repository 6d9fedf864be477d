"""Tells the plan of a call in words, without making it."""

from collections.abc import Mapping

from gateway.guards import Guards
from gateway.plan import Attempt, Kind, Plan
from gateway.referee import Race
from gateway.router import Router
from modelyard.catalog import Catalog, Constant, LastGood, Route
from modelyard.catalog.convert_route import seconds_to
from modelyard.gateway.v1 import gateway_service_pb2 as pb

# The size class of an ordinary request, for the moment of its hedge.
_ORDINARY = 5


def explain(
    router: Router,
    guards: Guards,
    catalog: Catalog,
    route: Route | None,
    model: str,
    selector: str,
    metadata: Mapping[str, str],
    deadline: float | None,
    now: float,
) -> pb.ExplainRouteResponse:
    """The plan that a call would get.

    Args:
        router: Chooses and compiles.
        guards: Know when a hedge would start.
        catalog: What is registered.
        route: The route to go by; None for the default one.
        model: The model's name.
        selector: A version number, a label, or nothing.
        metadata: What the call sends.
        deadline: In seconds; None for the route's.
        now: The moment.

    Raises:
        ModelNotFound, VersionNotFound, LabelNotFound: No such model, version or label.
    """
    choice = router.choose(catalog, route, model, selector, tuple(metadata.items()))
    plan = router.compiled(catalog, route, selector, choice)
    limit = router.deadline_of(route) if deadline is None else deadline
    race = Race(plan, 0.0, limit)
    trigger = None
    if plan.hedge is not None and plan.attempts[0].target is not None:
        trigger = guards.trigger(plan.attempts[0].target, _ORDINARY, plan.hedge, now)
    response = pb.ExplainRouteResponse(
        deadline=seconds_to(limit), chosen_by=choice.by, revision=catalog.revision
    )
    for attempt in plan.attempts:
        starts = _starts(attempt, race)
        if attempt.kind is Kind.HEDGE and trigger is not None:
            starts = trigger.delay
        open_circuit = attempt.target is not None and guards.circuits.is_open(attempt.target, now)
        response.attempts.add(
            kind=attempt.kind,
            version=str(attempt.target) if attempt.target else "",
            start_at=seconds_to(starts) if starts is not None else None,
            accept_from=seconds_to(min(attempt.accept_from, race.last_call)),
            when=_when(attempt, plan, starts)
            + (", but its circuit is open" if open_circuit else ""),
        )
    return response


def _starts(attempt: Attempt, race: Race) -> float | None:
    if attempt.kind is Kind.DEFAULT:
        return race.last_call
    if attempt.start_share is not None:
        return attempt.start_share * race.deadline
    return attempt.start_at


def _when(attempt: Attempt, plan: Plan, starts: float | None) -> str:
    match attempt.kind:
        case Kind.PRIMARY | Kind.RENDEZVOUS:
            return "at once"
        case Kind.RETRY:
            return "a connection failed: on another replica, if the extra-load budget pays"
        case Kind.HEDGE:
            assert plan.hedge is not None, "planned"
            budget = f"hedges stay within {plan.hedge.max_extra_load:.2%} of calls"
            if starts is None:
                return f"too few latencies are known yet to say; {budget}"
            return f"no answer by then: on another replica; {budget}"
        case Kind.FALLBACK:
            return "all before have failed, or at the latest then"
        case Kind.DEFAULT:
            what = "a constant"
            if isinstance(attempt.answer, LastGood):
                what = f"the last good answer for the same {attempt.answer.key}"
            assert isinstance(attempt.answer, Constant | LastGood), "a default has an answer"
            return f"{what}, when all before have failed, or just inside the deadline"
