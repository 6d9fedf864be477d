"""The supervisor with a real registry, a real Redis and real hosts."""

import io
import os
import signal
import threading
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

from modelyard.inference.v2 import open_inference_pb2_grpc as pb_grpc
from tests.kit import graphs
from tests.kit.host import infer
from tests.kit.registry import start_redis, start_registry
from tests.kit.supervisor import (
    connect_registry,
    is_alive,
    run_folder,
    supervisor_process,
    wait_until,
)

X = np.arange(8, dtype=np.float32).reshape(2, 4)


def scale(factor):
    return graphs.scale(factor).SerializeToString()


# A failed host is one until it starts again; where all processors are busy, a look comes late.
_SEEN_FAILED = ("--retry-first", "4")


def golden(factor):
    file = io.BytesIO()
    np.savez(file, **{"in.x": X, "out.y": X * np.float32(factor)})
    return file.getvalue()


def call(address, model, **options):
    channel_options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(address, options=channel_options) as channel:
        return infer(pb_grpc.GRPCInferenceServiceStub(channel), model, {"x": X}, **options)["y"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    with start_redis(folder / "redis") as redis, start_registry(redis, folder) as process:
        yield process


@pytest.fixture
def registry(store):
    with connect_registry(store.address) as registry:
        yield registry


@pytest.fixture
def supervisor(store, tmp_path):
    """Starts supervisors that share their folders."""
    with run_folder() as run:

        @contextmanager
        def start(models, *arguments):
            flags = ["--models", models, *arguments]
            with supervisor_process(
                store.address, store.artifacts, tmp_path / "data", run, flags
            ) as process:
                yield process

        yield start


def test_a_labelled_version_serves(supervisor, registry):
    number = registry.register("plain", scale(2.0), golden(2.0))
    registry.label("plain", "live", number, immediate=True)
    with supervisor("plain") as process:
        (host,) = registry.wait_serving("plain", number)
        np.testing.assert_array_equal(call(host.address, "plain"), X * 2)
        assert host.pid and host.restarts == 0 and host.machine
        assert process.terminate() == 0
        # Nothing is left: no process, no lease, no record, no socket.
        assert not is_alive(host.pid)
        assert registry.hosts("plain") == []
        assert process.records() == []
        assert [path.name for path in process.run.glob("*.sock")] == []


def test_the_new_version_serves_before_the_old_one_goes(supervisor, registry):
    first, second, third = (registry.register("moving", scale(f)) for f in (1.0, 2.0, 3.0))
    registry.label("moving", "live", first, immediate=True)
    with supervisor("moving"):
        (old,) = registry.wait_serving("moving", first)
        failed, answers, stop = [], [], threading.Event()

        def ask():
            # Follows the label as the gateway does: to a host of the version that is live.
            while not stop.is_set():
                live = registry.live("moving")
                serving = registry.in_state("SERVING", "moving", live)
                try:
                    (host,) = serving
                    answers.append(call(host.address, "moving")[0, 1])
                except (ValueError, grpc.RpcError) as error:
                    failed.append((live, error))

        asker = threading.Thread(target=ask)
        asker.start()
        try:
            registry.label("moving", "live", second)
            registry.wait_serving("moving", second)
            # The old one is `previous`, and goes on.
            assert [host.id for host in registry.wait_serving("moving", first)] == [old.id]
            registry.label("moving", "live", third)
            wait_until(lambda: not registry.hosts("moving", first))
            assert not is_alive(old.pid)
        finally:
            stop.set()
            asker.join(60)
        assert failed == []
        assert set(answers) >= {1.0, 3.0}


def test_a_killed_host_comes_back(supervisor, registry):
    number = registry.register("killed", scale(2.0))
    registry.label("killed", "live", number, immediate=True)
    with supervisor("killed", *_SEEN_FAILED):
        (host,) = registry.wait_serving("killed", number)
        os.kill(host.pid, signal.SIGKILL)
        (failed,) = registry.wait_failed("killed")
        assert failed.id == host.id and failed.reason == "killed by SIGKILL"
        (again,) = registry.wait_serving("killed", number)
        assert (again.id, again.restarts) == (host.id, 1)
        assert again.pid != host.pid and again.address != host.address
        np.testing.assert_array_equal(call(again.address, "killed"), X * 2)


def test_a_hung_host_is_replaced(supervisor, registry):
    number = registry.register("hung", scale(2.0))
    registry.label("hung", "live", number, immediate=True)
    with supervisor("hung", "--check-timeout", "0.5", "--check-every", "0.2", *_SEEN_FAILED):
        (host,) = registry.wait_serving("hung", number)
        os.kill(host.pid, signal.SIGSTOP)
        (failed,) = registry.wait_failed("hung")
        assert "hung: missed 3 health checks" in failed.reason
        (again,) = registry.wait_serving("hung", number)
        assert again.restarts == 1
        assert not is_alive(host.pid)


def test_hosts_outlive_a_killed_supervisor_and_are_adopted(supervisor, registry):
    number = registry.register("adopted", scale(2.0))
    registry.label("adopted", "live", number, immediate=True)
    with supervisor("adopted", "--replicas", "2") as first:
        hosts = registry.wait_serving("adopted", number, count=2)
        first.kill()
    for host in hosts:
        np.testing.assert_array_equal(call(host.address, "adopted"), X * 2)
    # One ends while nobody watches.
    os.kill(hosts[1].pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(hosts[1].pid))
    with supervisor("adopted", "--replicas", "2") as second:
        wait_until(
            lambda: (
                len(ids := {h.id for h in registry.in_state("SERVING", "adopted")}) == 2
                and hosts[0].id in ids
                and hosts[1].id not in ids
            )
        )
        assert {record["pid"] for record in second.records()} >= {hosts[0].pid}
        # The end of an adopted one is seen too.
        os.kill(hosts[0].pid, signal.SIGKILL)
        wait_until(lambda: hosts[0].pid not in {record["pid"] for record in second.records()})
        registry.wait_serving("adopted", number, count=2)
        assert second.terminate() == 0
    assert registry.hosts("adopted") == []


def test_hosts_are_left_for_the_next_supervisor_on_request(supervisor, registry):
    number = registry.register("left", scale(2.0))
    registry.label("left", "live", number, immediate=True)
    with supervisor("left", "--leave-hosts") as first:
        (host,) = registry.wait_serving("left", number)
        assert first.terminate() == 0
    assert is_alive(host.pid)
    np.testing.assert_array_equal(call(host.address, "left"), X * 2)
    with supervisor("left") as second:
        wait_until(lambda: "host adopted" in second.log.read_text())
        (same,) = registry.wait_serving("left", number)
        assert (same.id, same.pid) == (host.id, host.pid)
        assert second.terminate() == 0
    assert not is_alive(host.pid)


def test_hosts_without_a_supervisor_end(supervisor, registry):
    number = registry.register("orphan", scale(2.0))
    registry.label("orphan", "live", number, immediate=True)
    with supervisor("orphan", "--orphan-grace", "1") as process:
        (host,) = registry.wait_serving("orphan", number)
        process.kill()
    wait_until(lambda: not is_alive(host.pid))


def test_a_failing_golden_sample_is_told_and_not_tried_at_once(supervisor, registry):
    good = registry.register("golden", scale(2.0), golden(2.0))
    bad = registry.register("golden", scale(3.0), golden(2.0))
    registry.label("golden", "live", good, immediate=True)
    with supervisor("golden"):
        registry.wait_serving("golden", good)
        with pytest.raises(grpc.RpcError) as refused:
            registry.label("golden", "live", bad)
        failed = wait_until(lambda: registry.in_state("FAILED", "golden", bad))[0]
        assert "y" in failed.reason and "golden" in failed.reason
        assert failed.restarts == 0
        assert failed.reason in (refused.value.details() or "")
        assert len(registry.in_state("SERVING", "golden", good)) == 1


def test_only_one_supervisor_in_a_run_folder(supervisor, registry):
    with supervisor("nobody") as first:
        wait_until(lambda: (first.run / "supervisor.alive").exists())
        with supervisor("nobody") as second:
            assert second.process.wait(60) == 2
            assert "another supervisor" in second.log.read_text()
        assert first.process.poll() is None


def test_without_the_registry_hosts_serve_and_start(tmp_path):
    with run_folder() as run, start_redis(tmp_path / "redis") as redis:
        data = tmp_path / "data"
        with start_registry(redis, tmp_path) as store:
            with connect_registry(store.address) as registry:
                number = registry.register("alone", scale(2.0))
                registry.label("alone", "live", number, immediate=True)
                with supervisor_process(store.address, store.artifacts, data, run) as first:
                    (host,) = registry.wait_serving("alone", number)
                    wait_until(lambda: (data / "catalog.pb").exists())
                    store.kill()
                    # A crash is cured from what is known.
                    os.kill(host.pid, signal.SIGKILL)
                    again = wait_until(
                        lambda: [r for r in first.records() if r["pid"] != host.pid]
                    )[0]
                    first.kill()
            # The next supervisor has never heard the registry, and keeps what was wanted.
            with supervisor_process(store.address, store.artifacts, data, run) as second:
                wait_until(lambda: "host adopted" in second.log.read_text())
                assert [r["id"] for r in second.records()] == [again["id"]]
                os.kill(int(str(again["pid"])), signal.SIGKILL)
                wait_until(lambda: [r for r in second.records() if r["pid"] != again["pid"]])
                store.start()
                with connect_registry(store.address) as registry:
                    registry.wait_serving("alone", number)
                assert second.terminate() == 0
