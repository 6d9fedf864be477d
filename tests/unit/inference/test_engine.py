"""Where runs take place, and what becomes of calls that nobody waits for any more."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from modelyard.eager import Begun
from modelyard.errors import DeadlineExceeded, InvalidTensor, Overloaded
from services.inference.host.engine import Engine
from services.inference.host.signature import Signature, Tensor
from services.inference.host.tensors import Array
from services.inference.host.workers import Workers

_SLOW = 1e9
_FAST = 1e3
_FEEDS = {"x": np.zeros(1, np.float32)}


class _Stop:
    def __init__(self) -> None:
        self.asked = threading.Event()

    def stop(self) -> None:
        self.asked.set()


class _Model:
    """Runs until it is let go or stopped; tells on which thread it ran."""

    signature = Signature(
        (Tensor("x", "FP32", ("n",)),), (Tensor("y", "FP32", ("n",)), Tensor("z", "FP32", ("n",)))
    )

    def __init__(self, *, may_run_long: bool = False, held: bool = False) -> None:
        self.may_run_long = may_run_long
        self.go = threading.Event()
        if not held:
            self.go.set()
        self.runs: list[str] = []
        self.pause = 0.0

    def new_stop(self) -> _Stop:
        return _Stop()

    def run(
        self, feeds: dict[str, Array], outputs: Sequence[str] | None, stop: _Stop | None = None
    ) -> Sequence[Array]:
        self.runs.append(threading.current_thread().name)
        time.sleep(self.pause)
        while not self.go.wait(0.002):
            if stop is not None and stop.asked.is_set():
                raise RuntimeError("terminated")
        return [feeds["x"] for _ in outputs or ("y", "z")]


@asynccontextmanager
async def _engine(
    model: _Model, usual_ns: float, threads: int = 1, limit: int = 1
) -> AsyncIterator[tuple[Engine, Workers]]:
    workers = Workers(threads, limit)
    yield Engine("m", model, workers, usual_ns), workers
    model.go.set()
    workers.close()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def _call(engine: Engine, size: int = 4, deadline: int | None = None) -> "asyncio.Task[object]":
    run = engine.run(_FEEDS, engine.signature.outputs, size, deadline)
    return asyncio.ensure_future(run)


def _here() -> str:
    return threading.current_thread().name


async def test_short_runs_stay_on_the_loop() -> None:
    model = _Model()
    async with _engine(model, _FAST) as (engine, _):
        await _call(engine)
        assert model.runs == [_here()]
        await _call(engine, size=1 << 20)
        assert model.runs[1] != _here()


@pytest.mark.parametrize(("usual", "may_run_long"), [(_SLOW, False), (_FAST, True)])
async def test_other_runs_do_not(usual: float, may_run_long: bool) -> None:
    model = _Model(may_run_long=may_run_long)
    async with _engine(model, usual) as (engine, _):
        await _call(engine)
        assert model.runs[0] != _here()


class _Timed(_Model):
    """Takes as long as it is told, on a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.takes = 20_000

    def run(
        self, feeds: dict[str, Array], outputs: Sequence[str] | None, stop: _Stop | None = None
    ) -> Sequence[Array]:
        self.now += self.takes
        return super().run(feeds, outputs, stop)


async def _runs_here(model: _Timed, engine: Engine, takes: int) -> bool:
    model.takes = takes
    await _call(engine)
    return model.runs[-1] == _here()


async def test_a_model_that_stalls_the_loop_leaves_it_for_as_long_as_it_stalls() -> None:
    model, workers = _Timed(), Workers(1, 1)
    engine = Engine("m", model, workers, _FAST, lambda: model.now)
    for _ in range(3):
        assert await _runs_here(model, engine, 20_000_000)
        for _ in range(100):
            assert await _runs_here(model, engine, 20_000) or not engine.inline
    for _ in range(10):
        assert not any([await _runs_here(model, engine, 20_000) for _ in range(500)])
        assert not await _runs_here(model, engine, 20_000_000)
    workers.close()


async def test_a_machine_that_stood_still_is_not_held_against_a_model_for_ever() -> None:
    model, workers = _Timed(), Workers(1, 1)
    engine = Engine("m", model, workers, _FAST, lambda: model.now)
    for _ in range(20):
        await _runs_here(model, engine, 20_000_000)
    here = [await _runs_here(model, engine, 20_000) for _ in range(3100)]
    assert not any(here[:2900])
    assert all(here[3050:])
    workers.close()


async def test_a_stall_now_and_then_is_the_systems() -> None:
    model, workers = _Timed(), Workers(1, 1)
    engine = Engine("m", model, workers, _FAST, lambda: model.now)
    for _ in range(10):
        assert await _runs_here(model, engine, 20_000_000)
        assert all([await _runs_here(model, engine, 20_000) for _ in range(1000)])
    workers.close()


async def test_a_model_that_gets_slow_leaves_the_loop_within_a_few_runs() -> None:
    model, workers = _Timed(), Workers(1, 1)
    engine = Engine("m", model, workers, _FAST, lambda: model.now)
    here = [await _runs_here(model, engine, 5_000_000) for _ in range(30)]
    assert sum(here) <= 10
    assert not any(here[10:])
    workers.close()


async def test_a_slow_model_that_gets_fast_comes_to_the_loop() -> None:
    model = _Model()
    async with _engine(model, 1e6) as (engine, _):
        await _until_inline(engine)
        assert model.runs[0] != _here()


async def _until_inline(engine: Engine) -> None:
    async with asyncio.timeout(10):
        while not engine.inline:
            await _call(engine)


async def test_a_full_queue_is_overload() -> None:
    model = _Model(held=True)
    async with _engine(model, _SLOW) as (engine, _):
        calls = [_call(engine), _call(engine)]
        await _until(lambda: len(model.runs) == 1)
        with pytest.raises(Overloaded) as caught:
            await _call(engine)
        assert caught.value.retry_after is not None
        model.go.set()
        await asyncio.gather(*calls)
        assert len(model.runs) == 2


async def test_a_cancelled_run_stops_and_a_cancelled_wait_never_runs() -> None:
    model = _Model(held=True)
    async with _engine(model, _SLOW) as (engine, workers):
        running, waiting = _call(engine), _call(engine)
        await _until(lambda: len(model.runs) == 1)
        for task in (waiting, running):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await _until(lambda: workers.pending == 0)
        assert workers.stopped == 1
        assert len(model.runs) == 1


async def test_an_expired_run_stops() -> None:
    model = _Model(held=True)
    async with _engine(model, _SLOW) as (engine, workers):
        with pytest.raises(DeadlineExceeded):
            await _call(engine, deadline=time.monotonic_ns() + 20_000_000)
        await _until(lambda: workers.pending == 0)
        assert workers.stopped == len(model.runs)


@pytest.mark.parametrize("usual", [_FAST, _SLOW])
async def test_an_expired_call_is_never_run(usual: float) -> None:
    model = _Model()
    async with _engine(model, usual) as (engine, workers):
        with pytest.raises(DeadlineExceeded):
            await _call(engine, deadline=time.monotonic_ns() - 1)
        await _until(lambda: workers.pending == 0)
        assert model.runs == []


async def test_outputs_are_chosen_by_name() -> None:
    async with _engine(_Model(), _FAST) as (engine, _):
        assert engine.select([]) is engine.signature.outputs
        assert [t.name for t in engine.select(["z", "z"])] == ["z"]
        results, _queued, _ran = await engine.run(_FEEDS, engine.select(["z"]), 4, None)
        assert len(results) == 1
        with pytest.raises(InvalidTensor, match="unexpected inference output 'q' for model 'm'"):
            engine.select(["q"])


def _heads() -> Iterator[tuple[tuple[str, str, tuple[int, ...]], ...]]:
    for n in range(2000):
        yield (("x", "FP32", (n,)),)


async def test_checked_heads_are_remembered_within_bounds() -> None:
    async with _engine(_Model(), _FAST) as (engine, _):
        first = engine.plan((("x", "FP32", (1,)),))
        assert engine.plan((("x", "FP32", (1,)),)) is first
        for heads in _heads():
            assert engine.plan(heads)[0].shape == heads[0][2]
        assert len(engine._plans) <= 512


async def test_a_run_that_fails_as_its_caller_leaves_is_nobodys(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise RuntimeError("the model's")

    workers = Workers(1, 1)
    # As the front of frames begins a call; it is given up before its task had a turn.
    work = workers.run(fail, _Stop(), None)
    failed = work.send(None)
    await _until(lambda: workers.pending == 0)
    call = asyncio.create_task(Begun(work, failed))
    call.cancel()
    await asyncio.wait((call,))
    assert call.cancelled()
    del call, work, failed
    gc.collect()
    # asyncio tells of failures that nobody has looked at.
    assert caplog.records == []
    workers.close()
