"""Where a yard keeps its things, and that it is alone there."""

import os
import socket
from pathlib import Path

import pytest

from modelyard.errors import FailedPrecondition
from modelyard.yard import lock, logs, ports
from modelyard.yard.layout import Layout, layout


def test_the_same_data_gives_the_same_sockets(tmp_path: Path) -> None:
    assert layout(tmp_path / "a" / ".." / "b").run == layout(tmp_path / "b").run
    assert layout(tmp_path / "a").run != layout(tmp_path / "b").run


def test_sockets_fit_however_long_the_data_folder_is(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["folder" * 10] * 5)

    assert len(os.fsencode(layout(deep).registry_socket)) < 80


def test_the_default_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MODELYARD_DATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert layout(None).data == tmp_path / "modelyard"
    monkeypatch.setenv("MODELYARD_DATA", str(tmp_path / "mine"))
    assert layout(None).data == tmp_path / "mine"


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailedPrecondition, match="file/data: Not a directory"):
        Layout(tmp_path / "file" / "data", tmp_path / "run" / "x").make()


def test_a_run_folder_that_others_may_write_to(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(FailedPrecondition, match="others may write to it"):
        Layout(tmp_path / "data", tmp_path / "run" / "x").make()


def test_one_yard_on_one_folder(tmp_path: Path) -> None:
    path = tmp_path / "yard.lock"
    complaint = f"a yard runs on {tmp_path} already, with process id {os.getpid()}"
    with lock.held(path), pytest.raises(FailedPrecondition, match=complaint), lock.held(path):
        pass
    with lock.held(path):
        pass


def test_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FailedPrecondition, match=f"--grpc-port: port {port} .* is taken"):
            ports.check("127.0.0.1", port, "--grpc-port")
    assert ports.check("127.0.0.1", port, "--grpc-port") == port


def test_any_port() -> None:
    assert ports.check("127.0.0.1", 0, "--grpc-port") > 0


def test_logs_are_bounded(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"one\n" * 10)
        logs.bound(log, limit=100)
        assert log.stat().st_size == 40
        logs.bound(log, limit=10)
        writer.write(b"two\n")

    assert log.read_text() == "two\n"
    assert (tmp_path / "a.log.1").read_text() == "one\n" * 10
    logs.bound(tmp_path / "none.log")


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert logs.tail(log) == "  (nothing)"
    log.write_text("\n".join(str(number) for number in range(100)))
    assert logs.tail(log, 2) == "  98\n  99"
