"""Finds the plan of a call in the catalogue."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gateway.call import Call, Metadata
from gateway.compiler import direct, routed
from gateway.plan import Plan
from gateway.sequences import Place, Sequence, Sequences
from gateway.split import Turns, sticky
from modelyard.catalog import Catalog, Route, Target
from modelyard.names import VersionName, is_version_number


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a call goes, and why: the versions that start, each with its `accept_from`."""

    by: str
    legs: tuple[tuple[VersionName, float], ...]


class Router:
    """Compiles routes into plans.

    Args:
        catalog: Gives the catalogue as it is now.
        clock: Seconds, monotonic.
        deadline: Of a call whose caller and route give none, in seconds.
        max_attempts: Of a call whose route says nothing of retries.
        repeatable: Tells whether the contract lets a call be made more than once.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        clock: Callable[[], float],
        deadline: float,
        max_attempts: int,
        repeatable: bool = True,
    ) -> None:
        self._repeatable = repeatable
        self._catalog = catalog
        self._clock = clock
        self._deadline = deadline
        self._max_attempts = max_attempts
        self._turns: dict[str, tuple[Route, Turns]] = {}
        self._plans: dict[object, Plan] = {}
        self._compiled_at = -1
        self._sequences = Sequences()

    def plan(self, call: Call) -> Plan:
        """The plan of a call; sets `call.target`, and `call.host` where a sequence lives.

        Raises:
            ModelNotFound, VersionNotFound, LabelNotFound: No such model, version or label.
            SequenceLost: The call belongs to a sequence that is not known.
        """
        catalog = self._catalog()
        if call.sequence is not None:
            return self._in_sequence(catalog, call, call.sequence)
        route = catalog.routes.get(call.model)
        choice = self._choose(catalog, route, call.model, call.selector, call.metadata)
        call.target = choice.legs[0][0]
        if catalog.revision != self._compiled_at:
            # Plans hold what labels pointed at.
            self._plans.clear()
            self._compiled_at = catalog.revision
        key = (call.selector != "", choice.legs)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self.compiled(catalog, route, call.selector, choice)
        return plan

    def knows(self, model: str) -> bool:
        """Whether there is such a model."""
        return model in self._catalog().models

    def default_deadline(self, model: str) -> float:
        """The time that a call without a deadline is given, in seconds."""
        return self.deadline_of(self._catalog().routes.get(model))

    def deadline_of(self, route: Route | None) -> float:
        """The time that a route gives, in seconds."""
        if route is not None and route.deadline is not None:
            return route.deadline.total_seconds()
        return self._deadline

    def began(self, call: Call, host: str) -> None:
        """Writes down where the first call of a sequence was answered, or that the last was."""
        assert call.sequence is not None, "asked for sequences only"
        assert call.target is not None, "planned"
        if call.sequence.end:
            self._sequences.end(call.model, call.sequence)
        elif not call.host:
            place = Place(call.target, host, self._clock())
            self._sequences.begin(call.model, call.sequence, place)

    def choose(
        self, catalog: Catalog, route: Route | None, model: str, selector: str, metadata: Metadata
    ) -> Choice:
        """Where a call would go; takes no turn of a split."""
        return self._choose(catalog, route, model, selector, metadata, peek=True)

    def compiled(
        self, catalog: Catalog, route: Route | None, selector: str, choice: Choice
    ) -> Plan:
        """The plan for a choice."""
        attempts = self._max_attempts
        if route is not None:
            attempts = route.max_attempts or attempts
        if not self._repeatable:
            attempts = 1
            route = None if route is None else replace(route, hedge=None)
        if route is None:
            return direct(choice.legs[0][0], attempts)
        if selector:
            # Who names a version wants that one, or an error.
            return direct(choice.legs[0][0], attempts, route.hedge)
        return routed(
            route, choice.legs, attempts, lambda target: catalog.pointed_at(route.model, target)
        )

    def _choose(
        self,
        catalog: Catalog,
        route: Route | None,
        model: str,
        selector: str,
        metadata: Metadata,
        peek: bool = False,
    ) -> Choice:
        if selector or route is None:
            by = "default"
            if selector:
                by = "version" if is_version_number(selector) else "label"
            return Choice(by, ((catalog.resolve(model, selector), 0.0),))
        if route.match or route.sticky:
            sent: Mapping[str, str | bytes] = dict(metadata)
            for match in route.match:
                if match.fits(sent):
                    return Choice("match", ((catalog.pointed_at(model, match.target), 0.0),))
            value = sent.get(route.sticky)
            if route.split and isinstance(value, str) and value:
                target = sticky(route.split, model, value)
                return Choice("sticky", ((catalog.pointed_at(model, target), 0.0),))
        if route.rendezvous:
            legs = tuple(
                (catalog.pointed_at(model, r.target), r.accept_from.total_seconds())
                for r in route.rendezvous
            )
            return Choice("rendezvous", legs)
        if route.split:
            target = self._peek(route) if peek else self._turns_of(route).next()
            return Choice("split", ((catalog.pointed_at(model, target), 0.0),))
        return Choice("default", ((catalog.pointed_at(model, route.default), 0.0),))

    def _turns_of(self, route: Route) -> Turns:
        held = self._turns.get(route.model)
        if held is None or held[0] is not route:
            held = self._turns[route.model] = (route, Turns(route.split))
        return held[1]

    def _peek(self, route: Route) -> Target:
        """Where the next call of a split would go; one by a route that is only tried, the first."""
        held = self._turns.get(route.model)
        turns = held[1] if held is not None and held[0] is route else Turns(route.split)
        return turns.peek()

    def _in_sequence(self, catalog: Catalog, call: Call, sequence: Sequence) -> Plan:
        """A sequence stays on its version and its host; its calls are made once."""
        place = self._sequences.find(call.model, sequence, self._clock())
        if place is None:
            route = catalog.routes.get(call.model)
            choice = self._choose(catalog, route, call.model, call.selector, call.metadata)
            call.target = choice.legs[0][0]
        else:
            call.target, call.host = place.version, place.host
        return direct(call.target, 1)
