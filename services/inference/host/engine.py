"""Runs a model: checks requests, chooses where a run takes place, keeps the statistics."""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol

from modelyard.errors import DeadlineExceeded, InvalidTensor, Overloaded
from services.inference.host.signature import Head, Signature, Tensor
from services.inference.host.statistics import Statistics
from services.inference.host.tensors import Array, Slot
from services.inference.host.workers import Stoppable, Workers

# A run that is shorter than the way to a thread and back (about 0.1 ms on a busy machine,
# and more where threads outnumber processors) holds up the event loop less than that way would.
_INLINE_NS = 300_000
_INLINE_BYTES = 64 << 10
# A small request whose run took this long holds up the loop. So many among so many runs, and the
# model runs on threads, until so many times as many came without one: a single one may be the
# system's, that gave the processor to others, and several may be of a machine that stood still.
_STALL_NS = 10_000_000
_STALLS, _AMONG = 3, 1000
# How much one run counts in the moving average, and at most as how long.
_WEIGHT = 0.1
_LONGEST_NS = 2 * _INLINE_NS
# Distinct heads of requests that are remembered as checked.
_PLANS = 512


class Model(Protocol):
    """A loaded model."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        ...

    @property
    def may_run_long(self) -> bool:
        """True where a run's time may depend on the values more than on their number."""
        ...

    def new_stop(self) -> Any:
        """A handle that ends one run."""
        ...

    def run(
        self, feeds: dict[str, Array], outputs: Sequence[str] | None, stop: Any = None
    ) -> Sequence[Array]:
        """Runs once; callable from several threads."""
        ...


class Engine:
    """One model, ready to answer.

    Args:
        name: The model's name, for the texts of errors.
        model: The loaded model.
        workers: Where runs go that are too long for the event loop.
        usual_ns: How long a run takes, as far as is known (nanoseconds).
        clock: Monotonic, in nanoseconds.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        workers: Workers,
        usual_ns: float,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.name = name
        self.signature = model.signature
        self.statistics = Statistics()
        self._model = model
        self._workers = workers
        self._usual_ns = usual_ns
        self._clock = clock
        self._may_run_long = model.may_run_long
        # Each counts as one, and ever less with the runs after it.
        self._stalls = 0.0
        self._stalling = False
        self._plans: dict[tuple[Head, ...], tuple[Slot, ...]] = {}
        self._outputs = {t.name: t for t in model.signature.outputs}

    @property
    def inline(self) -> bool:
        """True while small requests run on the event loop."""
        return self._usual_ns < _INLINE_NS and not self._stalling and not self._may_run_long

    def plan(self, heads: tuple[Head, ...]) -> tuple[Slot, ...]:
        """Where each input goes; raises InvalidTensor. Remembers what it checked."""
        plan = self._plans.get(heads)
        if plan is None:
            plan = self.signature.check(self.name, heads)
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            self._plans[heads] = plan
        return plan

    def select(self, names: Sequence[str]) -> tuple[Tensor, ...]:
        """The outputs of these names, all for none; raises InvalidTensor for an unknown one."""
        if not names:
            return self.signature.outputs
        for name in names:
            if name not in self._outputs:
                raise InvalidTensor(
                    f"unexpected inference output '{name}' for model '{self.name}'", output=name
                )
        return tuple(self._outputs[name] for name in dict.fromkeys(names))

    async def run(
        self,
        feeds: dict[str, Array],
        outputs: tuple[Tensor, ...],
        size: int,
        deadline: int | None,
    ) -> tuple[Sequence[Array], int, int]:
        """The outputs, how long the call waited and how long it ran (nanoseconds).

        Args:
            feeds: The inputs, checked.
            outputs: Those wanted.
            size: The payload's bytes, which tell small requests from large.
            deadline: On the clock; a call past it is never run.

        Raises:
            DeadlineExceeded: Its time was over first.
            Overloaded: Too many calls wait.
            InvalidTensor: The model refuses a value.
        """
        names = None if outputs is self.signature.outputs else [t.name for t in outputs]
        if size <= _INLINE_BYTES and self.inline:
            return self._run_here(feeds, names, deadline)
        stop: Stoppable = self._model.new_stop()
        ran = 0

        def work() -> Sequence[Array]:
            nonlocal ran
            began = self._clock()
            results = self._model.run(feeds, names, stop)
            ran = self._clock() - began
            return results

        try:
            results, queued = await self._workers.run(work, stop, deadline)
        except Overloaded as error:
            wait = self._usual_ns * max(1, self._workers.pending) / 1e9
            error.retry_after = timedelta(seconds=min(max(wait, 0.01), 10.0))
            raise
        self.statistics.executions += 1
        self._learn(ran, size)
        return results, queued, ran

    def _run_here(
        self, feeds: dict[str, Array], names: list[str] | None, deadline: int | None
    ) -> tuple[Sequence[Array], int, int]:
        began = self._clock()
        if deadline is not None and began >= deadline:
            raise DeadlineExceeded("the call's time was over before its run began")
        results = self._model.run(feeds, names)
        ran = self._clock() - began
        self.statistics.executions += 1
        self._learn(ran, 0)
        return results, 0, ran

    def _learn(self, ran: int, size: int) -> None:
        # Large requests say nothing about how long a small one takes.
        if size > _INLINE_BYTES:
            return
        self._usual_ns += _WEIGHT * (min(ran, _LONGEST_NS) - self._usual_ns)
        if ran > _STALL_NS:
            self._stalls = min(self._stalls + 1.0, _STALLS)
            self._stalling = self._stalling or self._stalls > _STALLS - 1
        elif self._stalls:
            self._stalls = max(self._stalls - 1 / _AMONG, 0.0)
            self._stalling = self._stalling and self._stalls > 0.0
