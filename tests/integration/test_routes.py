"""Routes over a whole yard: each sort of route, by what it answers and who is said to have."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import helper
from prometheus_client.parser import text_string_to_metric_families

from modelyard.cli.route_yaml import parse
from modelyard.client import Client
from modelyard.client.inference import Inference
from modelyard.errors import DeadlineExceeded, InvalidRoute, SequenceLost
from tests.kit import graphs
from tests.kit.scale import scale
from tests.kit.traffic import Traffic, X
from tests.kit.yard import Yard, eventually, running_yard

MODEL = "scale"
# The rounds of a loop that no test waits for.
ENDLESS = np.int64(1 << 40)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    folder: Path = tmp_path_factory.mktemp("routes")
    with running_yard(folder / "yard", "--replicas", "2") as yard:
        client = yard.client
        client.register(MODEL, scale(folder, 2.0), wait=True)
        client.register(MODEL, scale(folder, 3.0), label="canary", wait=True)
        client.register(MODEL, scale(folder, 4.0), label="small", wait=True)
        yield yard


@pytest.fixture(autouse=True)
def default_route(yard: Yard) -> Iterator[None]:
    yield
    for model in yard.client.models():
        yard.client.remove_route(model.name.removeprefix("models/"))


def route(yard: Yard, text: str, model: str = MODEL) -> None:
    yard.client.replace_route(model, parse(text))


def infer(client: Client, deadline: float = 20.0, **options: Any) -> Inference:
    return client.infer(MODEL, {"X": X}, deadline=deadline, **options)


def served(yard: Yard, calls: int, **options: Any) -> Counter[int]:
    return Counter(infer(yard.client, **options).version or 0 for _ in range(calls))


def test_a_split_is_exact(yard: Yard) -> None:
    route(yard, "split: [{label: live, weight: 95}, {label: canary, weight: 5}]")
    assert served(yard, 100) == {1: 95, 2: 5}
    # Who names a version gets that one.
    assert infer(yard.client, version="canary").version == 2


def test_sticky_users_keep_their_version(yard: Yard) -> None:
    route(yard, "sticky: x-user-id\nsplit: [{label: live, weight: 1}, {label: canary, weight: 1}]")
    users = [f"user-{i}" for i in range(40)]

    def of(user: str) -> int | None:
        return infer(yard.client, metadata={"x-user-id": user}).version

    first = {user: of(user) for user in users}
    assert set(first.values()) == {1, 2}
    assert {user: of(user) for user in users} == first
    # All of those that had the canary keep it when it grows.
    route(yard, "sticky: x-user-id\nsplit: [{label: live, weight: 1}, {label: canary, weight: 9}]")
    assert all(of(user) == 2 for user, version in first.items() if version == 2)


def test_calls_are_matched_by_metadata(yard: Yard) -> None:
    route(
        yard,
        "match: [{metadata: {x-region: eu, x-tenant: '*'}, label: small},"
        " {metadata: {x-region: eu}, version: 2}]",
    )
    assert infer(yard.client).version == 1
    assert infer(yard.client, metadata={"x-region": "eu"}).version == 2
    assert infer(yard.client, metadata={"x-region": "eu", "x-tenant": "a"}).version == 3
    assert infer(yard.client, metadata={"x-region": "us"}).version == 1


def test_a_rendezvous_answers_with_the_best_version(yard: Yard) -> None:
    route(yard, "rendezvous: [{label: canary}, {label: live, accept_from: 5s}]")
    answer = infer(yard.client)
    assert (answer.version, answer.attempt) == (2, "rendezvous")


def test_a_hanging_version_falls_back_within_the_deadline(yard: Yard) -> None:
    folder = yard.layout.data
    onnx.save(graphs.loop(), folder / "hang.onnx")
    onnx.save(_quick(), folder / "quick.onnx")
    client = yard.client
    client.register("loop", folder / "hang.onnx", label="live", wait=True)
    client.register("loop", folder / "quick.onnx", label="quick", wait=True)
    route(yard, "fallback: [{label: quick}]", "loop")
    inputs = {"rounds": ENDLESS, "x": np.ones(1, np.float32)}
    for _ in range(3):
        answer = client.infer("loop", inputs, deadline=2.0)
        assert (answer.version, answer.attempt) == (2, "fallback")
    # What nobody waits for any more is stopped at its host.
    eventually(lambda: not any(r.pending for r in client.status().replicas))
    # And a constant, just inside the deadline, where there is no other version.
    route(yard, "fallback: [{default: {y: [0.5]}}]", "loop")
    answer = client.infer("loop", inputs, deadline=0.5)
    assert (answer.version, answer.attempt) == (None, "default")
    assert answer["y"].tolist() == [0.5]
    # Without either, the deadline is all there is.
    client.remove_route("loop")
    with pytest.raises(DeadlineExceeded):
        client.infer("loop", inputs, deadline=0.3)
    client.remove_label("loop", "live")
    client.remove_label("loop", "quick")


def _quick() -> onnx.ModelProto:
    """The loop's signature; its answer at once."""
    return graphs.model(
        [helper.make_node("Identity", ["x"], ["y"])],
        {"rounds": ("INT64", []), "x": ("FP32", ["n"])},
        {"y": ("FP32", ["n"])},
    )


def test_an_unloaded_version_falls_back(yard: Yard) -> None:
    client = yard.client
    route(yard, "default: {version: 3}\nfallback: [{label: live}]")
    assert infer(client).version == 3
    # All its hosts are killed at once: calls go elsewhere until new ones are there.
    for host in client.hosts(MODEL):
        if host.version.endswith("/3") and host.pid:
            os.kill(host.pid, signal.SIGKILL)
    answers = [infer(client, deadline=1.0) for _ in range(50)]
    assert {a.version for a in answers} <= {1, 3}
    assert any(a.attempt == "fallback" and a.version == 1 for a in answers)
    eventually(lambda: infer(client).version == 3, patience=60)


def test_a_stopped_replica_is_hedged(yard: Yard) -> None:
    """SIGSTOP: the connection lives and nothing answers, the worst that can befall a call."""
    client = yard.client
    route(yard, "hedge: {max_extra_load: 1.0, delay: 20ms}")
    for _ in range(60):
        infer(client)
    hosts = [h for h in client.hosts(MODEL) if h.version.endswith("/1") and h.pid]
    assert len(hosts) == 2
    answers: list[Inference] = []
    # Calls may all go to the other one, which is quicker: it is stopped in its turn, sooner than
    # a supervisor kills one that hangs.
    for victim in hosts:
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            for _ in range(300):
                answers.append(infer(client, deadline=10.0))
                if answers[-1].attempt == "hedge":
                    break
        finally:
            # Its supervisor may have killed it meanwhile, as it should.
            with suppress(ProcessLookupError):
                os.kill(victim.pid, signal.SIGCONT)
        if answers[-1].attempt == "hedge":
            break
    assert {a.version for a in answers} == {1}
    assert {a.attempt for a in answers} <= {"primary", "hedge"}
    assert answers[-1].attempt == "hedge"


def test_a_new_route_is_there_for_the_next_call_and_says_its_revision(yard: Yard) -> None:
    before = yard.client.status().revision
    for number in (2, 3, 1):
        route(yard, f"default: {{version: {number}}}")
        assert infer(yard.client).version == number
    assert yard.client.status().revision >= before + 3


def test_history_tells_of_routes(yard: Yard) -> None:
    route(yard, "deadline: 150ms")
    kinds = [change.WhichOneof("event") for change in yard.client.history(MODEL, limit=1)]
    assert kinds == ["route_replaced"]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("split: [{label: nowhere, weight: 1}]", "split[0]"),
        ("fallback: [{default: {Z: [1]}}]", "fallback[0].constant"),
        ("rendezvous: [{label: live}]", "rendezvous"),
        ("deadline: 1s\nfallback: [{label: canary, after: 2s}]", "fallback[0].after"),
    ],
)
def test_a_wrong_route_names_its_field_and_changes_nothing(
    yard: Yard, text: str, field: str
) -> None:
    with pytest.raises(InvalidRoute) as caught:
        route(yard, text)
    assert caught.value.metadata["field"] == field
    assert yard.client.route(MODEL).etag == "0"


def test_a_sequence_stays_on_its_replica(yard: Yard) -> None:
    client = yard.client

    def call(**parameters: Any) -> Inference:
        return client.infer(MODEL, {"X": X}, deadline=20.0, parameters=parameters)

    with pytest.raises(SequenceLost):
        call(sequence_id=7)
    call(sequence_id=7, sequence_start=True)
    client.label(MODEL, "live", 2)
    try:
        # Labels move on; a sequence that has begun does not.
        assert [call(sequence_id=7).version for _ in range(5)] == [1] * 5
        assert call(sequence_id=8, sequence_start=True).version == 2
        call(sequence_id=7, sequence_end=True)
        with pytest.raises(SequenceLost):
            call(sequence_id=7)
    finally:
        client.label(MODEL, "live", 1)


def test_explain_shows_the_plan(yard: Yard) -> None:
    route(
        yard,
        "match: [{metadata: {x-region: eu}, label: canary}]\ndeadline: 200ms\n"
        "hedge: {max_extra_load: 0.02}\nretry: {max_attempts: 2}\n"
        "fallback: [{label: small}, {default: {Y: [0, 0]}}]",
    )
    plan = yard.client.explain(MODEL, metadata={"x-region": "eu"})
    assert plan.chosen_by == "match"
    assert [(a.kind, a.version) for a in plan.attempts] == [
        ("primary", "models/scale/versions/2"),
        ("retry", "models/scale/versions/2"),
        ("hedge", "models/scale/versions/2"),
        ("fallback", "models/scale/versions/3"),
        ("retry", "models/scale/versions/3"),
        ("default", ""),
    ]
    assert plan.attempts[3].start_at.ToTimedelta().total_seconds() == pytest.approx(0.1)
    shown = yard.cli("route", MODEL, "--explain", "--metadata", "x-region=eu")
    assert shown.returncode == 0, shown.stderr
    assert "chosen by match, deadline 200ms" in shown.stdout
    # A route that is tried changes nothing.
    tried = yard.cli("route", MODEL, "--explain", "-f", "-", input="default: {version: 3}")
    assert "scale 3" in tried.stdout
    assert infer(yard.client).version == 1


def test_curves_and_a_proposal(yard: Yard) -> None:
    route(yard, "rendezvous: [{version: 2}, {version: 1, accept_from: 10ms}]")
    for _ in range(200):
        infer(yard.client)
    shown = yard.cli("route", MODEL, "--curves")
    assert shown.returncode == 0, shown.stderr
    assert "scale 1" in shown.stdout
    proposed = yard.cli("route", MODEL, "--suggest", "--sla", "5s", "--miss", "0.05")
    assert proposed.returncode == 0, proposed.stderr
    assert parse(proposed.stdout.split("#")[0]).rendezvous


def test_attempts_are_counted_by_kind(yard: Yard) -> None:
    route(yard, "rendezvous: [{version: 2}, {version: 3, accept_from: 5s}]")
    infer(yard.client)
    page = urllib.request.urlopen(f"http://{yard.metrics}/metrics").read().decode()
    found = {
        (s.labels["version"], s.labels["kind"], s.labels["event"]): s.value
        for family in text_string_to_metric_families(page)
        for s in family.samples
        if s.name == "modelyard_attempts_total" and s.labels["model"] == MODEL
    }
    assert found["2", "rendezvous", "won"] >= 1
    assert found["3", "rendezvous", "started"] >= 1


def test_every_gateway_has_a_new_route_and_says_its_revision(yard: Yard) -> None:
    with second_gateway(yard) as address, Client(address) as other:
        for number in (2, 3):
            route(yard, f"default: {{version: {number}}}")
            revision = yard.client.status().revision
            eventually(lambda wanted=revision: other.status().revision >= wanted, patience=10)
            # What says a revision answers by it.
            assert infer(other).version == number
            assert infer(yard.client).version == number


@contextmanager
def second_gateway(yard: Yard) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = ("--listen", address, "--metrics-listen", "")
    registry = ("--registry", f"unix:{yard.layout.registry_socket}")
    with (yard.layout.logs / "gateway-2.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", *flags, *registry], stdout=log, stderr=log
        )
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def test_top_shows_attempts(yard: Yard) -> None:
    route(yard, "rendezvous: [{version: 2}, {version: 3, accept_from: 5s}]")
    with Traffic(yard.address, MODEL, threads=1) as traffic:
        traffic.wait_for(5)
        shown = yard.cli("top", "--once", "--interval", "0.5")
    assert shown.returncode == 0, shown.stderr
    heads = shown.stdout.splitlines()[1]
    assert all(head in heads for head in ("calls/s", "p99.9", "hedged", "won", "fallbacks/s"))
    assert "scale 2" in shown.stdout
