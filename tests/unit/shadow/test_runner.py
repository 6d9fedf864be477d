"""The loop of an evaluation: each request counts once, wherever it is cut off."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.catalog import Tensor
from modelyard.catalog.model import Signature
from modelyard.errors import StoreUnavailable
from modelyard.events.v1 import event_pb2
from services.shadow import runner as runners
from services.shadow.findings import begin, resume
from services.shadow.observation import Reply
from services.shadow.plan import Plan
from services.shadow.read import Request
from services.shadow.runner import Runner
from services.shadow.verdict import Gate, Kind
from tests.kit import virtual_time
from tests.kit.events import call, feedback

ANSWER = {"label": np.array([1], np.int64)}


class Baseline:
    signature = Signature((), (Tensor("label", "INT64", ("N",)),))


class Asker:
    """Answers at once; the candidate is wrong on every fifth request."""

    def __init__(self):
        self.asked = 0

    async def ask(self, version, payload, timeout):
        self.asked += 1
        wrong = version.number == 2 and int(payload) % 5 == 0
        return Reply(0.001, {"label": np.array([2 if wrong else 1], np.int64)}, raw=b"raw")

    async def wait(self, version, seconds):
        return True


class Feed:
    """Numbered events from where it was, some at a time."""

    def __init__(self, events, at, size):
        self._events, self._at, self._size = events, at, size

    async def batches(self):
        while self._at < len(self._events):
            batch = self._events[self._at : self._at + self._size]
            self._at += len(batch)
            yield batch

    def state(self):
        return {"at": self._at}

    async def kept(self):
        pass


class Awaiting:
    """Answers that wait, as the store keeps them."""

    def __init__(self):
        self.held, self.truths = {}, {}

    async def put(self, request_id, answers, parts):
        self.held[request_id] = (dict.fromkeys(answers, ANSWER), parts)
        return self.truths.get(request_id)

    async def early(self, request_id, truth):
        self.truths[request_id] = truth

    async def get(self, request_id):
        return self.held.get(request_id)

    async def forget(self, request_ids):
        for request_id in request_ids:
            self.held.pop(request_id, None)
            self.truths.pop(request_id, None)


async def read(event):
    number = event.call.request_id.removeprefix("r-")
    return Request(
        event.call.request_id,
        datetime(2026, 3, 1, tzinfo=UTC),
        {},
        number.encode(),
        {"x": np.array([[1.0]], np.float32)},
        b"raw",
        ANSWER,
        1,
        0.001,
        1.0,
    )


class Store:
    """Keeps the last state; its n-th keep finds it away."""

    def __init__(self, away):
        self.kept, self._away, self._keeps = None, away, 0

    async def keep(self, state):
        self._keeps += 1
        if self._keeps in self._away:
            raise StoreUnavailable("away")
        self.kept = json.dumps(state)


async def evaluate(events, plan, *, size=7, away=()):
    """Runs to the end, taken up again after each failure; gives the findings' state."""
    store, awaiting, asker = Store(away), Awaiting(), Asker()
    while True:
        findings, at = begin(plan, Baseline, [2]), 0
        if store.kept is not None:
            state = json.loads(store.kept)
            findings, at = resume(state, plan, Baseline, [2]), state["feed"]["at"]
        runner = Runner(
            model="m",
            baseline=1,
            plan=plan,
            findings=findings,
            asker=asker,
            feed=Feed(events, at, size),
            read=read,
            awaiting=awaiting,
            keep=store.keep,
            until=1e12,
        )
        try:
            reason = await runner.run()
        except StoreUnavailable:
            continue
        return reason, findings, asker.asked


PLAN = Plan(gates=(Gate(Kind.DIFFERENCE, 0.2001), Gate(Kind.LOSS, 0.5)), canary=True)


def stream(count, truths):
    events = [call(n) for n in range(count)]
    for number in sorted(truths, reverse=True):
        # A truth right after its call, and one that overtakes it.
        events.insert(number + (number % 2), feedback(number, label=[1]))
    return events


@pytest.fixture(autouse=True)
def every_batch_is_kept(monkeypatch):
    monkeypatch.setattr(runners, "KEEP_EVERY", 0.0)
    monkeypatch.setattr(runners, "LOOK_EVERY", 0.0)


@settings(max_examples=30, deadline=None)
@given(
    away=st.sets(st.integers(1, 12), max_size=6),
    truths=st.sets(st.integers(0, 39), max_size=12),
    size=st.integers(1, 15),
)
def test_wherever_it_is_cut_off_each_request_and_truth_counts_once(away, truths, size):
    events = stream(40, truths)
    _, whole, _ = virtual_time.run(evaluate(events, PLAN))
    _, cut, _ = virtual_time.run(evaluate(events, PLAN, size=size, away=away))
    assert cut.tally == whole.tally
    assert (cut.tally.seen, cut.tally.replayed) == (40 + len(truths), 40)
    assert cut.tally.labelled == len(truths)
    assert cut.tally.unmatched == 0
    assert json.dumps(cut.evidence[2].difference.state()) == json.dumps(
        whole.evidence[2].difference.state()
    )


def test_it_ends_with_its_events_its_verdicts_or_its_bound():
    events = [call(n) for n in range(500)]
    bound = Plan(gates=(Gate(Kind.DIFFERENCE, 0.2001),), max_events=100)
    reason, findings, _ = virtual_time.run(evaluate(events, bound))
    assert (reason, findings.tally.replayed) == ("100 requests were replayed", 100)
    early = Plan(gates=(Gate(Kind.DIFFERENCE, 0.9),))
    reason, findings, _ = virtual_time.run(evaluate(events, early))
    assert reason == "every candidate has its verdict"
    assert findings.tally.replayed < 500
    reason, _, _ = virtual_time.run(evaluate(events[:5], early))
    assert reason == "the window is replayed"


def test_only_the_sample_is_replayed_and_part_of_it_twice():
    events = [call(n) for n in range(1000)]
    plan = Plan(gates=(Gate(Kind.DIFFERENCE, 0.9),), sample=0.3, baseline_sample=0.5, canary=True)
    _, findings, asked = virtual_time.run(evaluate(events, plan))
    tally = findings.tally
    assert tally.seen == 1000
    assert tally.replayed + tally.passed_over == 1000
    assert 220 < tally.replayed < 380
    assert asked == tally.replayed + tally.repeated
    assert 0.35 < tally.repeated / tally.replayed < 0.65


def test_a_feedback_twice_counts_once():
    events = [call(0), feedback(0, label=[1]), feedback(0, label=[1])]
    _, findings, _ = virtual_time.run(evaluate(events, PLAN, size=3))
    assert (findings.tally.labelled, findings.tally.unmatched) == (1, 1)


def test_an_event_of_another_kind_is_passed_over():
    async def unreadable(event):
        return None

    findings = begin(PLAN, Baseline, [2])
    runner = Runner(
        model="m",
        baseline=1,
        plan=PLAN,
        findings=findings,
        asker=Asker(),
        feed=Feed([event_pb2.Event(), call(1)], 0, 5),
        read=unreadable,
        awaiting=Awaiting(),
        keep=Store(()).keep,
        until=1e12,
    )
    virtual_time.run(runner.run())
    assert (findings.tally.seen, findings.tally.passed_over) == (2, 2)


class Timed(Asker):
    """Takes time to answer; says when it began."""

    def __init__(self, seconds):
        super().__init__()
        self.began, self._seconds = [], seconds

    async def ask(self, version, payload, timeout):
        loop = asyncio.get_running_loop()
        self.began.append(loop.time())
        await asyncio.sleep(self._seconds)
        return replace(await super().ask(version, payload, timeout), seconds=self._seconds)


def _paced(asker, count, share, concurrency=1, max_rate=0.0):
    """When so many replays began."""
    plan = Plan(
        gates=(Gate(Kind.DIFFERENCE, 0.9),),
        canary=True,
        baseline_sample=0.0,
        max_rate=max_rate,
        concurrency=concurrency,
    )
    runner = Runner(
        model="m",
        baseline=1,
        plan=plan,
        findings=begin(plan, Baseline, [2]),
        asker=asker,
        feed=Feed([call(n) for n in range(count)], 0, count),
        read=read,
        awaiting=Awaiting(),
        keep=Store(()).keep,
        until=1e12,
        share=share,
    )
    virtual_time.run(runner.run())
    assert len(asker.began) == count
    return asker.began


# A replay of 199.5 ms, and half a millisecond for what is done beside it.
@pytest.mark.parametrize(
    ("concurrency", "share", "max_rate", "every"),
    [
        (1, 1.0, 0.0, 0.1995),
        (1, 0.25, 0.0, 0.7995),
        (1, 0.25, 1.0, 1.0),
        (1, 0.1, 1.0, 1.9995),
        # Three at a time, each as seldom as one alone.
        (3, 0.25, 0.0, 0.7995),
        # The rate bounds them all.
        (3, 0.1, 1.0, 3.0),
    ],
)
def test_replays_rest_as_long_as_they_are_told(concurrency, share, max_rate, every):
    all_began = _paced(Timed(0.1995), 30, share, concurrency, max_rate)
    for place in range(concurrency):
        began = all_began[place::concurrency]
        assert np.diff(began) == pytest.approx([every] * (len(began) - 1))


def test_short_replays_rest_together():
    pauses = np.diff(_paced(Timed(0.0205), 12, 0.25))
    # Five of 21 ms, with what is done beside them, and three times as long a rest.
    assert pauses == pytest.approx([*[0.0205] * 4, 0.3355, *[0.0205] * 4, 0.3355, 0.0205])


class Failing(Timed):
    """Fails, after some time."""

    async def ask(self, version, payload, timeout):
        return replace(await super().ask(version, payload, timeout), outputs=None, error="GONE")


def test_one_that_hangs_is_not_rested_from_for_ever():
    # 99 times as long, were it no failure.
    assert np.diff(_paced(Failing(1.0), 5, 0.01)) == pytest.approx([21.0] * 4)


def test_a_failure_cuts_no_rest_that_is_owed_for_others():
    # Its one timeout is rested from 20 s; what was owed for others before it is taken, too.
    class Mixed(Timed):
        async def ask(self, version, payload, timeout):
            reply = await super().ask(version, payload, timeout)
            return replace(reply, seconds=1.0, error="GONE") if int(payload) == 3 else reply

    pauses = np.diff(_paced(Mixed(0.0205), 5, 0.01))
    assert pauses == pytest.approx([0.0205] * 3 + [0.0205 + 3 * 0.021 * 99 + 20.0])


def test_what_cannot_be_asked_is_rested_from_too():
    # What is done beside it is work: some 200 times half a millisecond, then 99 times as long.
    began = _paced(Failing(0.0), 450, 0.01)
    assert len(set(began)) == 3
    assert began[-1] == pytest.approx(2 * 200 * 0.0005 * 99, rel=0.01)
