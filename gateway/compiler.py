"""Compiles a route into a plan. Pure."""

from collections.abc import Callable, Iterator, Sequence

from gateway.plan import Attempt, Kind, Plan
from modelyard.catalog import Constant, Fallback, Hedge, LastGood, Route, Target
from modelyard.errors import NotFound
from modelyard.names import VersionName


def direct(target: VersionName, max_attempts: int, hedge: Hedge | None = None) -> Plan:
    """One version: tried up to `max_attempts` times, each on another replica, and hedged."""
    first = Attempt(Kind.PRIMARY, target, start_at=0.0)
    return Plan(tuple(_leg(first, max_attempts, hedge)), hedge)


def routed(
    route: Route,
    chosen: Sequence[tuple[VersionName, float]],
    max_attempts: int,
    resolve: Callable[[Target], VersionName],
) -> Plan:
    """A whole route.

    Args:
        route: The route.
        chosen: The version that the call goes to and 0.0; or, for a rendezvous, each version and
            from when its answer counts, in seconds.
        max_attempts: For each version.
        resolve: The version that a target stands for now; raises NotFound.
    """
    attempts: list[Attempt] = []
    kind = Kind.PRIMARY if len(chosen) == 1 else Kind.RENDEZVOUS
    for leg, (target, accept_from) in enumerate(chosen):
        first = Attempt(kind, target, leg, start_at=0.0, accept_from=accept_from)
        # The best version alone is hedged: another one that may answer is a hedge already.
        attempts += _leg(first, max_attempts, route.hedge if leg == 0 else None)
    asked = [target for target, _ in chosen]
    versions = [f for f in route.fallback if isinstance(f.answer, Target)]
    for leg, fallback in enumerate(route.fallback, start=len(chosen)):
        match fallback.answer:
            case Constant() | LastGood():
                attempts.append(Attempt(Kind.DEFAULT, None, leg, answer=fallback.answer))
            case Target() as named:
                try:
                    target = resolve(named)
                except NotFound:
                    continue  # Such as `previous` before there is one.
                if target in asked:
                    continue  # It has failed already when its turn comes.
                asked.append(target)
                first = _fallback(fallback, target, leg, versions)
                attempts += _leg(first, max_attempts, None)
    remember = tuple(f.answer.key for f in route.fallback if isinstance(f.answer, LastGood))
    return Plan(tuple(attempts), route.hedge, remember)


def _leg(first: Attempt, max_attempts: int, hedge: Hedge | None) -> Iterator[Attempt]:
    """An attempt with what may be done for it on other replicas."""
    yield first
    for _ in range(max_attempts - 1):
        yield Attempt(Kind.RETRY, first.target, first.leg, accept_from=first.accept_from)
    if hedge is not None:
        yield Attempt(Kind.HEDGE, first.target, first.leg, accept_from=first.accept_from)


def _fallback(
    fallback: Fallback, target: VersionName, leg: int, versions: Sequence[Fallback]
) -> Attempt:
    if fallback.after is not None:
        return Attempt(Kind.FALLBACK, target, leg, start_at=fallback.after.total_seconds())
    share = (versions.index(fallback) + 1) / (len(versions) + 1)
    return Attempt(Kind.FALLBACK, target, leg, start_share=share)
