"""What keeps attempts from doing harm: asked before one starts, told how it ended."""

import random
from collections.abc import Callable
from typing import Any

from gateway import outliers
from gateway.budget import Budget
from gateway.circuit import Circuits
from gateway.latency import Latencies, Trigger
from gateway.limits import Limiter
from gateway.replicas import Replica, Replicas
from gateway.survival import Observed
from modelyard.catalog import Hedge
from modelyard.errors import (
    DeadlineExceeded,
    HostGone,
    ModelyardError,
    OnFailure,
    Overloaded,
    VersionNotServing,
)
from modelyard.names import VersionName

# A version that has not answered is slow, and not its caller impatient, when it took so many
# times as long as half of its attempts do.
SLOW = 3.0


class Guards:
    """Budgets, latencies, curves, circuits and limits of every version.

    Args:
        replicas: Whose outliers are ejected.
        clock: Seconds, monotonic.
        chance: Draws the jitter of circuits.
        share: Of what a version gets at a time, and of retries that cost nothing, where several
            processes share the calls.
    """

    def __init__(
        self,
        replicas: Replicas,
        clock: Callable[[], float],
        chance: random.Random,
        share: float = 1.0,
    ) -> None:
        self._share = share
        self._replicas = replicas
        self._clock = clock
        self._budgets: dict[str, Budget] = {}
        self._limiters: dict[VersionName, Limiter] = {}
        self._observed: dict[VersionName, Observed] = {}
        self._latencies = Latencies()
        self.circuits = Circuits(chance)
        replicas.tell(came=self._came, went=self._went)

    def budget(self, model: str) -> Budget:
        """The purse of a model's calls."""
        budget = self._budgets.get(model)
        if budget is None:
            budget = self._budgets[model] = Budget(self._share)
        return budget

    def limiter(self, version: VersionName) -> Limiter:
        """The limit of a version."""
        limiter = self._limiters.get(version)
        if limiter is None:
            limiter = self._limiters[version] = Limiter(self._share)
        return limiter

    def observed(self, model: str) -> dict[VersionName, Observed]:
        """What became of the attempts on each version of a model."""
        return {v: observed for v, observed in self._observed.items() if v.model == model}

    def limits(self) -> dict[VersionName, Limiter]:
        """All limits."""
        return dict(self._limiters)

    def trigger(self, version: VersionName, size: int, hedge: Hedge, now: float) -> Trigger | None:
        """When a hedge starts after its first attempt; None where none is worth it."""
        if hedge.delay is not None:
            return Trigger(hedge.delay.total_seconds(), self._latencies.median(version, size, now))
        return self._latencies.trigger(version, size, hedge.max_extra_load, now)

    def forget(self, alive: frozenset[VersionName]) -> None:
        """Drops what is known of versions that exist no more."""
        kept: dict[VersionName, Any]
        for kept in (self._limiters, self._observed):
            for version in [v for v in kept if v not in alive]:
                del kept[version]
        self.circuits.forget(alive)
        models = {version.model for version in alive}
        for model in [m for m in self._budgets if m not in models]:
            del self._budgets[model]

    def _came(self, replica: Replica) -> None:
        # A host that is new is a reason to try a version that was left alone.
        self.circuits.retry(replica.version, self._clock())

    def _went(self, replica: Replica) -> None:
        self._latencies.forget(replica.version, replica.host)

    def answered(self, replica: Replica, size: int, seconds: float, now: float) -> None:
        """An attempt answered.

        Args:
            replica: Where.
            size: The class of its payload's size.
            seconds: After so long.
            now: The moment.
        """
        version = replica.version
        replica.load.observe(seconds, now)
        replica.succeeded()
        self._latencies.add(version, replica.host, size, seconds, now)
        limiter = self.limiter(version)
        limiter.gradient.observe(seconds, limiter.in_flight, now)
        observed = self._of(version)
        observed.answer(seconds)
        self.circuits.succeeded(version, now)

    def cancelled(self, replica: Replica, size: int, seconds: float, now: float) -> None:
        """An attempt was given up after so long; it would have taken longer."""
        # That it would have taken longer tells of the tail only where it has taken long already. A
        # hedge that is given up as soon as the first attempt answers tells nothing: counted as if
        # it had answered, it would pull the quantile down, and each hedge would bring the next.
        if seconds >= self._latencies.median(replica.version, size, now):
            self._latencies.add(replica.version, replica.host, size, seconds, now)
        # A replica that keeps calls waiting must look slow, also when none of them ends there.
        replica.load.observe_at_least(seconds, now)
        self._of(replica.version).cancel(seconds)
        self.circuits.gave_up(replica.version)

    def failed(
        self, replica: Replica, size: int, error: ModelyardError, seconds: float, now: float
    ) -> None:
        """An attempt ended in an error."""
        version = replica.version
        if error.on_failure is OnFailure.SURFACE:
            # The caller's fault: the host has done its work.
            replica.succeeded()
            self.circuits.succeeded(version, now)
            return
        if isinstance(error, Overloaded):
            self.circuits.gave_up(version)
            return
        if isinstance(error, DeadlineExceeded):
            replica.load.observe_at_least(seconds, now)
            self._of(version).cancel(seconds)
            if not self._is_slow(version, size, seconds, now):
                self.circuits.gave_up(version)
                return
        else:
            self._of(version).fail()
        if isinstance(error, HostGone):
            replica.disconnected(now)
        if not isinstance(error, VersionNotServing):
            outliers.failed(replica, self._replicas.of(version), now)
        self.circuits.failed(version, now)

    def overtaken(self, version: VersionName, size: int, seconds: float, now: float) -> None:
        """A fallback answered while a better version was still at it."""
        if self._is_slow(version, size, seconds, now):
            self.circuits.failed(version, now)

    def _is_slow(self, version: VersionName, size: int, seconds: float, now: float) -> bool:
        """Tells whether a version took much longer than it is used to."""
        usual = self._latencies.median(version, size, now) or self._limiter_latency(version)
        return seconds > SLOW * usual

    def _limiter_latency(self, version: VersionName) -> float:
        limiter = self._limiters.get(version)
        return limiter.gradient.latency if limiter else 0.0

    def _of(self, version: VersionName) -> Observed:
        observed = self._observed.get(version)
        if observed is None:
            observed = self._observed[version] = Observed()
        return observed
