"""Six candidates in a running yard: each gets the verdict that it deserves, live and by back-test.

One yard and one traffic serve all of them, and the tests after it: hosts cost more than checks.
"""

import os
import signal
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from modelyard.cli.plan import gate
from modelyard.cli.route_yaml import parse
from modelyard.errors import FailedPrecondition, InvalidArgument, ModelyardError, NotFound
from modelyard.registry.v1 import host_pb2
from modelyard.shadow.v1 import evaluation_pb2, report_pb2
from tests.kit.classifiers import classifier, draw, truth
from tests.kit.yard import eventually, running_yard

PROMOTE, REJECT = report_pb2.VERDICT_PROMOTE, report_pb2.VERDICT_REJECT
RUNNING = evaluation_pb2.Evaluation.STATE_RUNNING
DECIDED = evaluation_pb2.Evaluation.STATE_DECIDED
STOPPED = evaluation_pb2.Evaluation.STATE_STOPPED

# What is asked of each candidate, and what it deserves. Latencies of a test's machine are rough.
CANDIDATES = {
    "equal": (["difference:label=0.02", "errors=0.01", "latency@0.5=4"], [], PROMOTE),
    "better": (["loss:label=0", "errors=0.01"], [], PROMOTE),
    "worse": (["loss:label=0.02", "errors=0.01"], [], REJECT),
    "slow": (["difference:label=0.02", "latency@0.5=4"], [], REJECT),
    "crashing": (["errors=0.005"], [], REJECT),
    "broken": (["difference=0.2", "errors=0.01"], ["input:x[0]@1"], REJECT),
}


class Traffic:
    """Calls with their truths, from one thread, while the block runs."""

    def __init__(self, yard, truths=True):
        self._yard, self._truths = yard, truths
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0
        self.failures = []

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()

    def _run(self):
        rng = np.random.default_rng(5)
        told = []
        while not self._stop.is_set():
            x = draw(rng)
            try:
                answer = self._yard.client.infer(
                    "m", {"x": x}, metadata={"x-region": rng.choice(["eu", "us"])}
                )
                self.sent += 1
                if self._truths:
                    told.append((answer.request_id, truth(x).tolist()))
                if len(told) > 20:
                    # The truth comes later than the answer.
                    request_id, label = told.pop(0)
                    self._yard.client.feedback("m", request_id, {"label": label})
            except ModelyardError as error:
                self.failures.append(error)
            time.sleep(0.004)


@contextmanager
def crashes(yard, version):
    """Kills the hosts that evaluations have of a version, whenever one serves again."""
    stop = threading.Event()

    def kill():
        while not stop.wait(0.4):
            for host in yard.client.hosts("m"):
                serves = host.pool == "shadow" and host.state == host_pb2.Host.STATE_SERVING
                if serves and host.version.endswith(f"/{version}"):
                    try:
                        os.kill(host.pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shadow")
    with running_yard(folder / "data", "--shadow-share", "1") as yard:
        client = yard.client
        client.register("m", classifier(folder, "live", 0.25, seed=1), label="live", wait=True)
        paths = {
            "equal": classifier(folder, "equal", 0.25, seed=1),
            "better": classifier(folder, "better", 0.02),
            "worse": classifier(folder, "worse", 2.0, seed=3),
            "slow": classifier(folder, "slow", 0.25, seed=1, rounds=40_000),
            "crashing": classifier(folder, "crashing", 0.24, seed=1),
            "broken": classifier(folder, "broken", 0.25, seed=1, swap_above=1.0),
        }
        for name, path in paths.items():
            made = client.register("m", path, metadata={"what": name}, allow_duplicate=True)
            yard.numbers[name] = made.version.number
        # Everything is recorded, so that a back-test has as much as the live evaluations had.
        client.replace_route("m", parse("tap: {sample: 1.0}"))
        yield yard


def plan(name, window=None):
    gates, slices, _ = CANDIDATES[name]
    made = evaluation_pb2.Plan(
        sample=0.0 if window else 1.0,
        gates=[gate(text) for text in gates],
        slices=slices,
        baseline_sample=0.5,
        max_rate=100.0 if name == "crashing" else 0.0,
        max_events=20_000,
    )
    if window:
        made.window.start.FromDatetime(window[0])
        made.window.end.FromDatetime(window[1])
    return made


def verdicts(yard, window=None, patience=120.0):
    """Evaluates every candidate; gives their reports when all are decided."""
    client = yard.client
    started = {
        name: client.start_evaluation("m", [number], plan=plan(name, window), note=name).name
        for name, number in yard.numbers.items()
    }

    def undecided():
        return [
            (e.note, e.reason, client.report(e.name).candidates[0].reasons[:3])
            for e in client.evaluations("m")
            if e.name in started.values() and e.state != DECIDED
        ]

    with crashes(yard, yard.numbers["crashing"]):
        deadline = time.monotonic() + patience
        while left := undecided():
            assert time.monotonic() < deadline, left
            time.sleep(0.5)
    return {name: client.report(evaluation) for name, evaluation in started.items()}


def test_each_candidate_gets_the_verdict_that_it_deserves_live_and_by_back_test(yard):
    began = datetime.now(UTC)
    with Traffic(yard) as traffic:
        live = verdicts(yard)
    assert not traffic.failures
    for name, (_, _, deserved) in CANDIDATES.items():
        (candidate,) = live[name].candidates
        assert candidate.verdict == deserved, (name, candidate.reasons)
    said = {name: list(report.candidates[0].reasons) for name, report in live.items()}
    assert said["worse"][0].startswith("fails: loss of 'label' within 0.02")
    assert said["slow"][0].startswith("fails: p50 of the latency within 4 times")
    assert "HOST_GONE" in " ".join(said["crashing"]) or "NO_HOST" in " ".join(said["crashing"])
    assert said["broken"][0].startswith("fails where input:x[0]@1 is '>= 1'")
    worst = live["broken"].candidates[0].worst[0]
    assert worst.difference > 0
    assert "x" in worst.inputs

    # What was replayed live is in the archive, and says the same there.
    client = yard.client
    eventually(lambda: _archived(yard) == traffic.sent, 60)
    back = verdicts(yard, (began - timedelta(seconds=1), datetime.now(UTC)))
    for name, (_, _, deserved) in CANDIDATES.items():
        assert back[name].candidates[0].verdict == deserved, (
            name,
            back[name].candidates[0].reasons,
        )
    # Nothing is left: no recording, no hosts, nobody's group.
    assert not client.route("m").shadow
    eventually(lambda: not [h for h in client.hosts("m") if h.pool == "shadow"], 60)
    assert not [v for v in client.versions("m") if v.shadowed]


def _archived(yard):
    from modelyard.archive.reading import Archive, Query

    return sum(batch.num_rows for batch in Archive(str(yard.layout.archive)).calls(Query("m")))


def test_a_truth_that_overtakes_its_call_is_joined_all_the_same(yard):
    client, rng = yard.client, np.random.default_rng(9)
    made = evaluation_pb2.Plan(sample=1.0, gates=[gate("loss:label=0.5")], canary=True)
    evaluation = client.start_evaluation("m", [yard.numbers["equal"]], plan=made).name
    eventually(lambda: client.report(evaluation).evaluation.state == RUNNING, 30)
    for _ in range(30):
        x = draw(rng)
        answer = client.infer("m", {"x": x})
        # At once: the record of the call still waits for others, to be written with them.
        client.feedback("m", answer.request_id, {"label": truth(x).tolist()})
    counts = eventually(lambda: _settled(client, evaluation, 30), 60)
    client.stop_evaluation(evaluation)
    assert (counts.labelled, counts.unmatched) == (30, 0)


def running(yard, **more):
    made = evaluation_pb2.Plan(sample=1.0, gates=[gate("difference=0.9")], canary=True, **more)
    return yard.client.start_evaluation("m", [yard.numbers["equal"]], plan=made)


def test_killed_it_goes_on_and_counts_each_request_once(yard):
    with Traffic(yard, truths=False) as traffic:
        evaluation = running(yard).name
        client = yard.client
        eventually(lambda: client.report(evaluation).counts.replayed > 50, 60)
        for _ in range(3):
            os.kill(yard.room("shadow").pid, signal.SIGKILL)
            before = _replayed(client, evaluation)
            eventually(lambda held=before: (_replayed(client, evaluation) or 0) > held + 50, 60)
    counts = eventually(lambda: _settled(client, evaluation), 60)
    client.stop_evaluation(evaluation)
    # Of the calls that were sent while it ran, each was seen once: none twice, none lost.
    assert counts.duplicates == counts.lost == 0
    assert counts.replayed == counts.seen - counts.passed_over
    assert counts.seen <= traffic.sent


def _replayed(client, evaluation):
    try:
        return client.report(evaluation).counts.replayed
    except ModelyardError:
        return 0


def _settled(client, evaluation, least=0):
    """The counts, once no more come."""
    one = client.report(evaluation).counts
    if one.replayed < least:
        return None
    time.sleep(1.5)
    other = client.report(evaluation).counts
    return other if one.seen == other.seen else None


def test_an_evaluation_is_stopped_listed_and_keeps_what_it_found(yard):
    with Traffic(yard, truths=False):
        evaluation = running(yard, slices=["metadata:x-region"])
        client = yard.client
        eventually(lambda: client.report(evaluation.name).counts.replayed > 30, 60)
        assert client.route("m").shadow[0].target.version == yard.numbers["equal"]
        assert client.stop_evaluation(evaluation.name).state == STOPPED
    assert client.stop_evaluation(evaluation.name).state == STOPPED
    report = client.report(evaluation.name)
    assert report.counts.replayed > 30
    assert {part.value for part in report.candidates[0].slices} == {"eu", "us"}
    assert client.evaluations("m")[0].name == evaluation.name
    assert not client.route("m").shadow
    shown = yard.cli("shadow", "report", evaluation.name).stdout
    assert "stopped" in shown
    listed = yard.cli("shadow", "list", "m").stdout
    assert evaluation.name in listed


def test_the_page_needs_nothing_beside_itself(yard, tmp_path):
    page = tmp_path / "report.html"
    done = yard.cli("shadow", "report", "m", "--html", str(page))
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "<svg" in text
    assert "http" not in text.replace("http://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "").replace("https://matplotlib.org", "")


def test_a_promotion_ends_the_command_with_0_and_a_rejection_with_4(yard):
    with Traffic(yard):
        equal, worse = (str(yard.numbers[name]) for name in ("equal", "worse"))
        promoted = yard.cli(
            *("shadow", "start", "m", equal, "--gate", "difference=0.1", "--again", "0", "--wait")
        )
        rejected = yard.cli(
            *("shadow", "start", "m", worse, "--gate", "difference=0.1", "--again", "0", "--wait")
        )
    assert (promoted.returncode, rejected.returncode) == (0, 4), promoted.stdout + rejected.stdout
    assert "PROMOTE" in promoted.stdout
    assert "REJECT" in rejected.stdout


@pytest.mark.parametrize(
    ("candidates", "change", "error", "field"),
    [
        ([1], {}, InvalidArgument, "candidates"),
        ([], {}, InvalidArgument, "candidates"),
        ([77], {}, NotFound, ""),
        (["nobody"], {}, NotFound, ""),
        ([2, 2], {}, InvalidArgument, "candidates"),
        ([2], {"sample": 1.5}, InvalidArgument, "plan.sample"),
        ([2], {"alpha": 0.9}, InvalidArgument, "plan.alpha"),
        ([2], {"slices": ["region"]}, InvalidArgument, "slices"),
        ([2], {"gates": [gate("difference:nobody=0.1")]}, InvalidArgument, "plan.gates[0].output"),
        ([2], {"gates": [gate("latency=0")]}, InvalidArgument, "plan.gates[0].margin"),
        ([2], {"baseline_sample": 0.0}, InvalidArgument, "plan.baseline_sample"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_its_field(yard, candidates, change, error, field):
    made = evaluation_pb2.Plan(**{"sample": 1.0, **change})
    with pytest.raises(error) as refused:
        yard.client.start_evaluation("m", candidates, plan=made)
    assert refused.value.metadata.get("field", "") == field


def test_a_version_that_is_evaluated_cannot_be_deleted(yard):
    evaluation = running(yard)
    number = yard.numbers["equal"]
    eventually(lambda: yard.client.versions("m") and _shadowed(yard, number), 30)
    with pytest.raises(FailedPrecondition, match="held by"):
        yard.client.delete("m", number)
    yard.client.stop_evaluation(evaluation.name)


def _shadowed(yard, number):
    return any(v.number == number and v.shadowed for v in yard.client.versions("m"))


def test_a_route_asks_for_an_evaluation_by_its_shadow(yard):
    client, number = yard.client, yard.numbers["worse"]
    evaluation = None
    # Another baseline than the tests before had: a pair is evaluated once.
    client.replace_route(
        "m",
        parse(
            f"default: {{version: {yard.numbers['better']}}}\n"
            f"shadow: [{{version: {number}, sample: 1.0}}]"
        ),
    )
    with Traffic(yard, truths=False):
        evaluation = eventually(
            lambda: next((e for e in client.evaluations("m") if e.actor == "route"), None), 30
        )
        eventually(lambda: client.report(evaluation.name).candidates[0].verdict == REJECT, 60)
    assert list(evaluation.candidates) == [number]
    # Its entry is the route's own, and stays.
    assert client.route("m").shadow[0].target.version == number
    client.replace_route("m", parse("tap: {sample: 1.0}"))
