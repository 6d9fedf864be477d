"""Evaluation and archive through a campaign of kill -9: afterwards they agree with the log."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modelyard.archive.reading import Archive, Query
from modelyard.cli.plan import gate
from modelyard.cli.route_yaml import parse
from modelyard.errors import ModelyardError
from modelyard.registry.v1 import host_pb2
from modelyard.shadow.v1 import evaluation_pb2, report_pb2
from tests.kit.classifiers import classifier
from tests.kit.events import logged
from tests.kit.traffic import Traffic
from tests.kit.yard import Yard, eventually, running_yard

MODEL = "m"
RUNNING = evaluation_pb2.Evaluation.STATE_RUNNING


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    with running_yard(tmp_path / "data", "--shadow-share", "1") as yard:
        client = yard.client
        client.register(MODEL, classifier(tmp_path, "live", 0.25), label="live", wait=True)
        made = client.register(MODEL, classifier(tmp_path, "candidate", 0.2, seed=4))
        yard.numbers["candidate"] = made.version.number
        client.replace_route(MODEL, parse("tap: {sample: 1.0}"))
        yield yard


def a_candidates_host(yard: Yard) -> int:
    """A process that serves an evaluation."""
    return next(
        host.pid
        for host in yard.client.hosts(MODEL)
        if host.pool == "shadow" and host.state == host_pb2.Host.STATE_SERVING
    )


def victim(yard: Yard, what: str) -> int:
    return a_candidates_host(yard) if what == "host" else yard.room(what).pid


def counts(yard: Yard, evaluation: str) -> report_pb2.Counts:
    try:
        return yard.client.report(evaluation).counts
    except ModelyardError:
        return report_pb2.Counts()


def archived(yard: Yard) -> list[str]:
    batches = Archive(str(yard.layout.archive)).calls(Query(MODEL))
    return [id for batch in batches for id in batch.column("request_id").to_pylist()]


async def test_whatever_is_killed_evaluation_and_archive_agree_with_the_log(yard: Yard) -> None:
    client = yard.client
    plan = evaluation_pb2.Plan(sample=1.0, gates=[gate("difference=0.9")], canary=True)
    evaluation = client.start_evaluation(MODEL, [yard.numbers["candidate"]], plan=plan).name
    eventually(lambda: client.report(evaluation).evaluation.state == RUNNING, 60)
    kills = ["shadow", "archive", "host", "shadow-hosts", "events"] * 2
    random.Random(8).shuffle(kills)
    inputs = {"x": np.ones((1, 4), np.float32)}
    traffic = Traffic(yard.address, MODEL, threads=2, inputs=inputs, pause=0.02)
    with traffic:
        for what in kills:
            killed = eventually(lambda name=what: _found(yard, name), 60)
            seen = counts(yard, evaluation).replayed
            os.kill(killed, signal.SIGKILL)
            traffic.wait_for(50)
            # It is replayed again, whatever was killed.
            eventually(lambda held=seen: counts(yard, evaluation).replayed > held + 20, 90)
    assert traffic.failures == []

    answered = Counter(served.request_id for served in traffic.answers)
    status = eventually(lambda: _written(yard), 30)
    log = Counter(event.call.request_id for event in await logged(yard, "campaign"))
    # Redis may lose what its disk had not; the gateway drops what does not fit. Neither twice.
    gone = status.written - len(log)
    assert status.dropped == 0
    assert gone >= 0
    assert set(log.values()) == {1}
    assert len(answered) - gone <= len(log) <= len(answered)

    ids = eventually(lambda: _at_rest(lambda: archived(yard), len(log)), 60)
    assert len(ids) == len(set(ids)) <= status.written
    assert set(ids) >= set(log)
    # A host that was killed last may still be on its way.
    eventually(lambda: _taken(yard, evaluation) >= len(log), 120)
    eventually(lambda: _at_rest(lambda: [_taken(yard, evaluation)], 1), 60)
    found = counts(yard, evaluation)
    client.stop_evaluation(evaluation)
    assert found.duplicates == 0
    assert len(log) <= found.seen + found.lost <= status.written
    assert found.replayed + found.passed_over == found.seen


def _taken(yard: Yard, evaluation: str) -> int:
    found = counts(yard, evaluation)
    return found.seen + found.lost


def _found(yard: Yard, what: str) -> int | None:
    try:
        return victim(yard, what)
    except (LookupError, StopIteration, ModelyardError):
        return None


def _written(yard: Yard):  # type: ignore[no-untyped-def]
    status = yard.client.status().event_log
    return status if status.recorded == status.written + status.dropped else None


def _at_rest(look, least):  # type: ignore[no-untyped-def]
    """What is seen, once it changes no more."""
    one = look()
    time.sleep(1.5)
    other = look()
    return other if len(other) >= least and one == other else None
