"""Finds the plan of a call in the catalogue."""

from collections.abc import Callable

from gateway.call import Call
from gateway.plan import Plan, retrying
from modelyard.catalog import Catalog
from modelyard.names import VersionName


class Router:
    """Compiles routes into plans.

    Args:
        catalog: Gives the catalogue as it is now.
        deadline: Of a call whose caller and route give none, in seconds.
        max_attempts: Of a call whose route says nothing of retries.
    """

    def __init__(self, catalog: Callable[[], Catalog], deadline: float, max_attempts: int) -> None:
        self._catalog = catalog
        self._deadline = deadline
        self._max_attempts = max_attempts

    def plan(self, call: Call) -> Plan:
        """The plan of a call; sets `call.target`.

        Raises:
            ModelNotFound, VersionNotFound: No such model, version or label.
        """
        catalog = self._catalog()
        call.target = target = catalog.resolve(call.model, call.selector)
        route = catalog.routes.get(call.model)
        attempts = self._max_attempts
        if route is not None and route.max_attempts:
            attempts = route.max_attempts
        return _plan(target, attempts)

    def default_deadline(self, model: str) -> float:
        """The time that a call without a deadline is given, in seconds."""
        route = self._catalog().routes.get(model)
        if route is not None and route.deadline is not None:
            return route.deadline.total_seconds()
        return self._deadline


_plans: dict[tuple[VersionName, int], Plan] = {}


def _plan(target: VersionName, attempts: int) -> Plan:
    """Plans are values: one for each target is enough for all calls."""
    plan = _plans.get((target, attempts))
    if plan is None:
        if len(_plans) >= 4096:
            _plans.clear()
        plan = _plans[target, attempts] = retrying(target, attempts)
    return plan
