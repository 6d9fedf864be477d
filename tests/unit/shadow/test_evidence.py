"""What is learnt of a candidate, and what follows from it."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from modelyard.catalog import Tensor
from services.shadow.comparators.choose import chosen_for
from services.shadow.evidence import MOST_WORST, Evidence
from services.shadow.judgement import MOST_LOOKS, Judgement, look
from services.shadow.losses import choose
from services.shadow.observation import Observation, Reply
from services.shadow.plan import Plan
from services.shadow.slices import parse
from services.shadow.verdict import Gate, Kind, Verdict

OUTPUTS = {
    "label": Tensor("label", "INT64", ("N",)),
    "scores": Tensor("scores", "FP32", ("N", 3)),
}
T0 = datetime(2026, 3, 1, tzinfo=UTC)


def evidence(plan, outputs=OUTPUTS):
    losses = {name: choose(tensor) for name, tensor in outputs.items()}
    return Evidence(2, plan, chosen_for(outputs, plan.comparators), losses)


def answers(labels):
    labels = np.int64(labels)
    return {"label": labels, "scores": np.eye(3, dtype=np.float32)[labels]}


def seen(number, baseline, candidate, *, repeat=None, error="", region="eu", seconds=0.001):
    """A request of as many rows as there are labels."""
    reply = Reply(seconds, None if error else answers(candidate), error)
    return Observation(
        f"r-{number}",
        T0,
        {"x-region": region},
        {"x": np.array([[number]] * len(baseline), np.float32)},
        answers(baseline),
        0.001,
        {2: reply},
        None if repeat is None else Reply(0.001, answers(repeat)),
        len(baseline),
    )


def random_requests(count, seed=3):
    rng = np.random.default_rng(seed)
    for number in range(count):
        baseline = rng.integers(0, 3, rng.integers(1, 4))
        candidate = np.where(rng.random(len(baseline)) < 0.2, (baseline + 1) % 3, baseline)
        yield seen(
            number,
            baseline,
            candidate,
            repeat=baseline if rng.random() < 0.5 else None,
            error="HOST_GONE" if rng.random() < 0.05 else "",
            region=str(rng.choice(["eu", "us"])),
            seconds=float(rng.uniform(0.001, 0.01)),
        )


@pytest.mark.parametrize("kept_after", [0, 1, 57, 199])
def test_what_was_kept_goes_on_as_if_nothing_had_happened(kept_after):
    plan = Plan(slices=(parse("metadata:x-region"), parse("rows")))
    through, kept = evidence(plan), evidence(plan)
    for number, request in enumerate(random_requests(200)):
        through.observe(request)
        kept.observe(request)
        if number == kept_after:
            losses = {name: choose(tensor) for name, tensor in OUTPUTS.items()}
            state = json.loads(json.dumps(kept.state()))
            kept = Evidence.restore(state, 2, plan, chosen_for(OUTPUTS, {}), losses)
    assert json.dumps(kept.state()) == json.dumps(through.state())


def test_failures_are_counted_and_compare_nothing():
    held = evidence(Plan())
    held.observe(seen(1, [0, 1], [0, 1], repeat=[0, 1]))
    held.observe(seen(2, [0, 1], [], error="HOST_GONE", repeat=[0, 1]))
    assert (held.errors.count, held.errors.estimate) == (2, 0.5)
    assert dict(held.reasons) == {"HOST_GONE": 1}
    assert held.difference.count == held.latencies.count == 1
    # The baseline did answer both times: its own failures are counted, too.
    assert (held.repeat_errors.count, held.repeat_errors.estimate) == (2, 0.0)


def test_each_row_counts_for_the_part_that_it_lies_in():
    held = evidence(Plan(slices=(parse("output:label"),)))
    held.observe(seen(1, [0, 0, 1], [0, 0, 2]))
    parts = {value: part.difference.estimate for (_, value), part in held.parts.items()}
    assert parts["0"] == 0.0
    assert parts["1"] == 1.0
    assert held.outputs["label"].difference.estimate == pytest.approx(1 / 3)


def test_an_output_that_the_candidate_lacks_differs_wholly():
    held = evidence(Plan())
    observation = seen(1, [0], [0])
    del observation.candidates[2].outputs["scores"]
    held.observe(observation)
    assert held.outputs["label"].difference.estimate == 0.0
    assert held.outputs["scores"].difference.estimate == 1.0


def test_the_worst_are_kept_the_worst_first_and_no_more_than_so_many():
    held = evidence(Plan())
    for number in range(3 * MOST_WORST):
        wrong = number % 5
        held.observe(seen(number, [0] * 4, [1] * wrong + [0] * (4 - wrong)))
    told = [one["difference"] for one in held.worst]
    assert len(told) == MOST_WORST
    assert told == sorted(told, reverse=True)
    assert min(told) > 0


def test_a_truth_counts_for_the_candidate_or_against_it():
    plan = Plan(gates=(Gate(Kind.LOSS, 0.0),), slices=(parse("metadata:x-region"),))
    held = evidence(plan)
    request = seen(1, [0], [1])
    held.observe(request)
    parts = held.where(request)
    assert held.judge({"label": [1.0]}, answers([0]), answers([1]), parts)
    assert held.loss.estimate < 0
    assert held.parts[("metadata:x-region", "eu")].loss.count == 1
    assert not held.judge({"nobody": [1.0]}, answers([0]), answers([1]), parts)
    assert held.loss.count == 1


def judged(plan, requests, every=1):
    held, judgement = evidence(plan), Judgement()
    for number, request in enumerate(requests):
        held.observe(request)
        if number % every == 0:
            look(judgement, plan, held, 1, float(number))
    return judgement


def test_a_verdict_stands_whatever_comes_after_it():
    plan = Plan(gates=(Gate(Kind.DIFFERENCE, 0.3),))
    good = [seen(n, [0], [0]) for n in range(400)]
    bad = [seen(n, [0], [1]) for n in range(4000)]
    judgement = judged(plan, good + bad, every=10)
    assert judgement.verdict is Verdict.PROMOTE
    assert judgement.at < 400
    restored = Judgement.restore(json.loads(json.dumps(judgement.state())))
    assert restored == judgement


def test_a_gate_that_has_passed_has_passed():
    # Alpha is spent once on each gate: the first is through before the second has data.
    plan = Plan(gates=(Gate(Kind.DIFFERENCE, 0.3), Gate(Kind.LOSS, 0.1)))
    judgement = judged(plan, [seen(n, [0], [0]) for n in range(400)], every=10)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.passed == {0}
    assert judgement.reasons[0].startswith("nothing observed yet")


def test_a_part_that_is_worse_rejects_what_is_good_on_the_whole():
    plan = Plan(gates=(Gate(Kind.DIFFERENCE, 0.3),), slices=(parse("metadata:x-region"),))
    requests = [
        seen(n, [0], [1] if n % 10 == 0 else [0], region="is" if n % 10 == 0 else "eu")
        for n in range(1000)
    ]
    judgement = judged(plan, requests)
    assert judgement.verdict is Verdict.REJECT
    assert judgement.reasons[0].startswith("fails where metadata:x-region is 'is'")


def test_a_promotion_waits_for_large_parts_and_not_for_small_ones():
    plan = Plan(gates=(Gate(Kind.DIFFERENCE, 0.3),), slices=(parse("metadata:x-region"),))

    def promoted(one_in):
        requests = [
            seen(n, [0], [0], region="is" if n % one_in == 0 else "eu") for n in range(1, 2000)
        ]
        judgement = judged(plan, requests)
        assert judgement.verdict is Verdict.PROMOTE
        return judgement.at

    assert promoted(10) > 2 * promoted(100)


def test_looks_are_thinned_and_keep_the_first_and_the_last():
    plan = Plan(gates=(Gate(Kind.DIFFERENCE, 0.0001),))
    judgement = judged(plan, [seen(n, [0], [0]) for n in range(700)])
    looks = judgement.looks[0]
    assert len(looks) <= MOST_LOOKS
    assert (looks[0][0], looks[-1][0]) == (1, 700)
