"""`modelyard up`: one command, one ready line, one clean end, and all is back after a crash."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest

from modelyard.errors import ModelyardError
from tests.kit.scale import scale
from tests.kit.yard import Yard, end, eventually, processes_of, running_yard, start_yard

pytestmark = pytest.mark.timeout(240)

UP = (sys.executable, "-m", "modelyard", "up")
ANY_PORTS = ("--grpc-port", "0", "--metrics-port", "0")
X = {"X": np.ones((1, 2), np.float32)}


def answers(yard: Yard) -> bool:
    try:
        return bool(yard.client.infer("scale", X, deadline=5)["Y"][0, 0] == 2)
    except ModelyardError:
        return False


def test_a_life(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_yard(data) as yard:
        yard.client.register("scale", scale(tmp_path, 2), wait=True)
        assert answers(yard)
        with urllib.request.urlopen(f"http://{yard.metrics}/metrics") as page:
            assert page.status == 200
        processes = yard.processes()
        assert len(processes) >= 6
        # One session, in which the policy of background work counts.
        assert {os.getsid(p.pid) for p in processes} == {os.getsid(yard.process.pid)}
        assert sorted(log.name for log in yard.layout.logs.glob("*.log")) == [
            "archive.log",
            "events.log",
            "gateway.log",
            "inference.log",
            "redis.log",
            "registry.log",
            "shadow-hosts.log",
            "shadow.log",
        ]

        second = refused_up("--data", str(data), *ANY_PORTS)
        assert f"FAILED_PRECONDITION: a yard runs on {data} already" in second
        port = yard.address.rpartition(":")[2]
        busy = refused_up("--data", str(tmp_path / "other"), "--grpc-port", port)
        assert f"--grpc-port: port {port} on 127.0.0.1 is taken" in busy
        assert not processes_of(yard.layout.__class__(tmp_path / "other", tmp_path / "other"))

        assert yard.stop() == 0
        assert processes_of(yard.layout) == []

    # What was live is live again, and the ready line says so.
    with running_yard(data) as yard:
        assert answers(yard)


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    with running_yard(tmp_path) as yard:
        yard.process.send_signal(signal.SIGINT)
        assert yard.process.wait(60) == 0
        assert processes_of(yard.layout) == []


def test_a_signal_before_it_is_ready(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*UP, "--data", str(tmp_path), *ANY_PORTS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    eventually(lambda: (tmp_path / "logs" / "redis.log").exists())
    process.terminate()
    out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (0, b""), err


def test_killed_rooms_come_back(tmp_path: Path) -> None:
    with running_yard(tmp_path) as yard:
        yard.client.register("scale", scale(tmp_path, 2), wait=True)
        for name in ("redis", "registry", "inference", "gateway"):
            victim = yard.room(name)
            victim.kill()
            if name != "gateway":
                assert answers(yard)
            eventually(lambda name=name, victim=victim: is_back(yard, name, victim))
            eventually(lambda: answers(yard))
        eventually(lambda: registers(yard, tmp_path))
        assert yard.stderr.read_text().count("ended (signal SIGKILL)") == 4


def test_all_is_recovered_after_kill_9(tmp_path: Path) -> None:
    yard = start_yard(tmp_path)
    before: list[psutil.Process] = []
    try:
        yard.client.register("scale", scale(tmp_path, 2), wait=True)
        rooms = [yard.room(name) for name in ("redis", "registry", "inference", "gateway")]
        (host,) = {host.pid for host in yard.client.hosts("scale")}
        yard.process.kill()
        yard.process.wait()
        _, alive = psutil.wait_procs(rooms, timeout=20)
        assert not alive
        before = processes_of(yard.layout)

        with running_yard(tmp_path) as again:
            assert answers(again)
            # The host outlived its yard, and the next one took it over.
            assert {host.pid for host in again.client.hosts("scale")} == {host}
    finally:
        if yard.process.stdout is not None:
            yard.process.stdout.close()
        end([process for process in before if process.is_running()])
    assert processes_of(yard.layout) == []


def is_back(yard: Yard, name: str, victim: psutil.Process) -> bool:
    try:
        return yard.room(name).pid != victim.pid
    except LookupError:
        return False


def registers(yard: Yard, folder: Path) -> bool:
    try:
        yard.client.register("other", scale(folder, 3))
    except ModelyardError:
        return False
    return True


def refused_up(*flags: str) -> str:
    result = subprocess.run(
        [*UP, *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, ""), result.stderr
    return result.stderr


def test_a_redis_that_does_not_answer(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}"
        environment = {**os.environ, "MODELYARD_DATA": str(tmp_path)}
        result = subprocess.run(
            [*UP, "--redis", url, *ANY_PORTS],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    assert result.returncode == 1
    assert "registry" in result.stderr
    assert 'Traceback (most recent call last):\n  File "<frozen runpy>' not in result.stderr
