"""Records name one process for ever; logs stay small; stage files are read as far as they go."""

import os
import subprocess
import sys
from dataclasses import replace

from modelyard.names import VersionName
from services.inference.logfiles import trim
from services.inference.processes import describe_exit, read_stages
from services.inference.records import Record, Records, open_process, started


def record_of(pid: int, folder) -> Record:
    return Record(
        id="h1",
        pid=pid,
        started=started(pid) or "",
        version=VersionName("digits", 3),
        digest="sha256:" + "a" * 64,
        restarts=2,
        stages=folder / "h1.stages",
        log=folder / "h1.log",
    )


def test_a_record_comes_back(tmp_path):
    records = Records(tmp_path)
    record = record_of(os.getpid(), tmp_path)
    records.write(record)
    assert list(records) == [record]
    records.mark_unwanted("h1")
    assert list(records) == [replace(record, unwanted=True)]
    records.remove("h1")
    records.remove("h1")
    records.mark_unwanted("h1")
    assert list(records) == []


def test_a_damaged_record_is_dropped(tmp_path):
    for name, text in (
        ("a", "{"),
        ("b", "[]"),
        ("c", '{"version": "models/m/versions/1"}'),
        ("d", '{"version": "m"}'),
    ):
        (tmp_path / f"{name}.json").write_text(text)
    assert list(Records(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_only_the_very_process_is_opened(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record = record_of(child.pid, tmp_path)
    pidfd = open_process(record)
    assert pidfd is not None
    os.close(pidfd)
    # The same pid, begun at another time or in another boot, is another process.
    boot, ticks = record.started.split("/")
    assert open_process(replace(record, started=f"{boot}/{int(ticks) - 1}")) is None
    assert open_process(replace(record, started=f"another/{ticks}")) is None
    child.kill()
    child.wait()
    assert child.stdin is not None
    child.stdin.close()
    assert open_process(record) is None


def test_half_a_line_waits(tmp_path):
    path = tmp_path / "h.stages"
    assert read_stages(path) == []
    path.write_text('{"stage": "loading"}\nnoise\n3\n{"stage": "serv')
    assert read_stages(path) == [{"stage": "loading"}]


def test_exits_in_words():
    assert describe_exit(-9, "x") == "killed by SIGKILL"
    assert describe_exit(-50, "") == "killed by signal 50"
    assert describe_exit(1, "ImportError: no") == "exit code 1: ImportError: no"
    assert describe_exit(1, "") == "exit code 1"
    assert "without being asked" in describe_exit(0, "bye")
    assert describe_exit(None, "") == "ended by itself"


def test_logs_stay_small_and_few(tmp_path):
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 90 + b"y" * 20)
        trim(tmp_path, most_bytes=100)
        assert (tmp_path / "a.log.1").read_bytes() == b"x" * 30 + b"y" * 20
        writer.write(b"z")
        assert log.read_bytes() == b"z"
    for n in range(5):
        (tmp_path / f"{n}.log").write_text("")
        os.utime(tmp_path / f"{n}.log", (n, n))
    trim(tmp_path, most_files=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "3.log",
        "4.log",
        "a.log",
        "a.log.1",
    ]
