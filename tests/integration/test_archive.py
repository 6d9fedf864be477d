"""The archive's writer on a real log: once, whole, through crashes; and who can read it.

Past 300 lines: each test shows the same writer something else that a log may hold, by the same few
helpers.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import polars as pl
import pytest

from modelyard import redis_server
from modelyard.archive import tables
from modelyard.archive.reading import Archive, Query
from modelyard.archive.rows import event_of
from modelyard.events.calls import pack
from modelyard.events.event import facts_of
from modelyard.events.payloads import Payloads
from modelyard.events.streams import fields_of, stream_key
from modelyard.events.v1 import event_pb2
from modelyard.events.writer import Bounds, Writer
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.redis_client import connect
from services.archive import intake
from services.archive.collector import Collector, Flush
from services.archive.partitions import Partitions
from tests.kit.events import T0, batch, call, feedback
from tests.kit.yard import eventually


@pytest.fixture
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r")
    with redis_server.running(folder, folder / "s", fsync="everysec"):
        yield f"unix://{folder / 's'}"


@pytest.fixture
async def redis(log):
    client = connect(log)
    yield client
    await client.aclose()


async def write(redis, *events, writer=None, bounds=None):
    writer = writer or Writer(redis, bounds or Bounds())
    for event in events:
        await writer.write([batch(writer, event)])
    return writer


async def collect(redis, root, payloads=None, **flush):
    collector = Collector("m", redis, Partitions(str(root), "m"), payloads, Flush(**flush), None)
    collector.end()
    await collector.run()
    return collector


def requests(count):
    return [f"r-{number}" for number in range(count)]


def ids(root, **query):
    return [row["request_id"] for row in Archive(str(root)).rows(Query("m", **query))]


async def test_every_call_is_there_once_and_can_be_asked_for(redis, tmp_path):
    calls = [call(n, version=1 + n % 2) for n in range(6)]
    calls.append(call(6, error="OVERLOADED"))
    calls.append(call(7, time=T0 + timedelta(days=1)))
    await write(redis, *calls)
    collector = await collect(redis, tmp_path)
    assert ids(tmp_path) == [f"r-{n}" for n in range(8)]
    assert ids(tmp_path, version=2) == ["r-1", "r-3", "r-5"]
    assert ids(tmp_path, failed=True) == ["r-6"]
    assert ids(tmp_path, request_id="r-3") == ["r-3"]
    assert ids(tmp_path, since=T0 + timedelta(seconds=4), until=T0 + timedelta(hours=1)) == [
        "r-4",
        "r-5",
        "r-6",
    ]
    assert ids(tmp_path, since=T0 + timedelta(hours=20)) == ["r-7"]
    assert Archive(str(tmp_path)).models() == ["m"]
    assert collector.counts.rows == 8


async def test_a_row_tells_the_call_whole(redis, tmp_path):
    await write(redis, call(3, metadata=[("x-user", "u")], inputs={"x": np.float32([[1, 2]])}))
    await collect(redis, tmp_path)
    (row,) = Archive(str(tmp_path)).rows(Query("m"))
    assert row["time"] == T0 + timedelta(seconds=3)
    assert dict(row["metadata"]) == {"x-user": "u"}
    assert row["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [1, 2], "numbers": [1.0, 2.0], "texts": None}
    ]
    assert (row["version"], row["attempt"], row["digest"]) == (1, "primary", "sha256:ab")
    assert row["attempts"][0]["outcome"] == "won"
    assert (row["revision"], row["route_revision"]) == (7, 5)
    again = event_of("m", row).call
    was = call(3, metadata=[("x-user", "u")], inputs={"x": np.float32([[1, 2]])}).call
    assert again.request.inline == was.request.inline
    assert again.response.inline == was.response.inline
    assert again.answer.served_by == was.answer.served_by


async def test_a_second_run_adds_what_came_since(redis, tmp_path):
    writer = await write(redis, call(0), call(1))
    await collect(redis, tmp_path)
    await write(redis, call(2), writer=writer)
    collector = await collect(redis, tmp_path)
    assert ids(tmp_path) == ["r-0", "r-1", "r-2"]
    assert (collector.progress.taken, collector.progress.duplicates) == (3, 0)
    waiting = await redis.xpending(stream_key("m"), "archive")
    assert waiting["pending"] == 0


async def test_a_batch_that_was_written_again_is_archived_once(redis, tmp_path):
    writer = Writer(redis)
    twice = batch(writer, call(0), call(1))
    await writer.write([twice])
    await writer.write([twice])
    collector = await collect(redis, tmp_path)
    assert ids(tmp_path) == ["r-0", "r-1"]
    assert collector.progress.duplicates == 2


async def test_an_entry_of_which_a_part_was_archived_adds_the_rest(redis, tmp_path):
    writer = Writer(redis)
    whole = batch(writer, *map(call, range(4)))
    first = replace(
        whole, count=2, calls=pack([facts_of(call(n)) for n in range(2)]).SerializeToString()
    )
    await writer.write([first])
    await writer.write([whole])
    collector = await collect(redis, tmp_path)
    assert ids(tmp_path) == requests(4)
    events = [row["event_id"] for row in Archive(str(tmp_path)).rows(Query("m"))]
    assert events == whole.ids
    assert collector.progress.duplicates == 2


@pytest.mark.parametrize("bound", ["_CALLS", "_BYTES"])
async def test_what_waits_is_columns_in_time_and_in_order(redis, tmp_path, monkeypatch, bound):
    monkeypatch.setattr(intake, bound, 1)
    writer, converted = Writer(redis), []
    calls_of = tables.calls_of

    def noted(packed, ids):
        converted.append(len(ids))
        return calls_of(packed, ids)

    monkeypatch.setattr(tables, "calls_of", noted)
    for start in range(0, 100, 5):
        await writer.write([batch(writer, *map(call, range(start, start + 5)))])
    collector = await collect(redis, tmp_path)
    assert ids(tmp_path) == requests(100)
    assert collector.counts.rows == 100
    # As they are read: eight entries at a time.
    assert converted == [8, 8, 4]


async def test_events_of_an_earlier_gateway_are_archived_too(redis, tmp_path):
    writer = Writer(redis)
    events = [call(0), feedback(0, y=[1.0]), call(1, error="OVERLOADED")]
    await writer.write([writer.number("m", [event.SerializeToString() for event in events])])
    await writer.write([batch(writer, call(2))])
    collector = await collect(redis, tmp_path)
    rows = list(Archive(str(tmp_path)).rows(Query("m")))
    assert [row["request_id"] for row in rows] == requests(3)
    assert [row["event_id"] for row in rows] == [f"{writer.id}-{n}" for n in (1, 3, 4)]
    assert [row["error"] for row in rows] == [None, "OVERLOADED", None]
    assert (collector.counts.rows, collector.counts.spoilt) == (4, 0)


async def test_a_truth_whose_value_is_left_out_stops_nothing(redis, tmp_path):
    event = event_pb2.Event()
    event.feedback.request_id = "r"
    # Of a map's entry the wire may hold the key alone: field 2 of the feedback, then its key.
    event.feedback.MergeFromString(b"\x12\x03\x0a\x01y")
    await write(redis, event, call(1))
    collector = await collect(redis, tmp_path)
    assert ids(tmp_path) == ["r-1"]
    assert (collector.counts.rows, collector.counts.spoilt) == (2, 0)


async def test_older_events_of_no_time_are_set_aside_each_by_itself(redis, tmp_path):
    before, told = call(0), feedback(1, y=[1.0])
    before.call.time.seconds = -1
    told.time.seconds = 1 << 60
    await write(redis, before)
    writer = Writer(redis)
    events = [event.SerializeToString() for event in (before, call(1), told, before)]
    await writer.write([writer.number("m", [b"\xff", *events])])
    collector = await collect(redis, tmp_path)
    assert ids(tmp_path) == ["r-1"]
    kept = sorted(path.read_bytes() for path in (tmp_path / "_spoilt" / "model=m").iterdir())
    assert len(kept) == 5
    assert collector.counts.spoilt == 5


async def test_calls_that_do_not_fit_together_are_set_aside(redis, tmp_path):
    writer = Writer(redis)
    whole = batch(writer, call(0), call(1))
    await writer.write([replace(whole, calls=whole.calls[:-1]), batch(writer, call(2))])
    collector = await collect(redis, tmp_path)
    assert ids(tmp_path) == ["r-2"]
    assert (collector.counts.spoilt, collector.progress.lost) == (2, 0)
    (kept,) = (tmp_path / "_spoilt" / "model=m").iterdir()
    assert kept.read_bytes() == whole.calls[:-1]


async def test_a_write_that_never_ended_is_taken_back(redis, tmp_path):
    writer = await write(redis, call(0))
    await collect(redis, tmp_path)
    (kept,) = (tmp_path / "_progress" / "model=m").iterdir()
    progress = kept.read_bytes()
    await write(redis, call(1), writer=writer)
    await collect(redis, tmp_path)
    # As if the crash had come before the progress was written, and with half a file.
    (last,) = (tmp_path / "_progress" / "model=m").iterdir()
    last.unlink()
    kept.write_bytes(progress)
    folder = tmp_path / "calls" / "model=m" / "date=2026-03-01"
    (folder / "9999999999999999-0000000000.parquet.part").write_bytes(b"half")
    collector = await collect(redis, tmp_path)
    assert sorted(ids(tmp_path)) == ["r-0", "r-1"]
    assert not list(folder.glob("*.part"))
    assert collector.progress.duplicates == 0


async def test_an_archive_without_its_progress_begins_anew(redis, tmp_path):
    await write(redis, call(0), call(1))
    await collect(redis, tmp_path)
    for progress in (tmp_path / "_progress" / "model=m").iterdir():
        progress.unlink()
    await collect(redis, tmp_path)
    assert ids(tmp_path) == ["r-0", "r-1"]


async def test_what_is_no_event_is_set_aside_and_stops_nothing(redis, tmp_path):
    await redis.sadd("modelyard:events", "m")
    spoilt = event_pb2.Entry(events=[b"\xff\xffspoilt"], writer="w", first=1)
    await redis.xadd(stream_key("m"), fields_of(spoilt))
    await write(redis, call(0))
    collector = await collect(redis, tmp_path)
    assert ids(tmp_path) == ["r-0"]
    assert collector.counts.spoilt == 1
    (kept,) = (tmp_path / "_spoilt" / "model=m").iterdir()
    assert kept.read_bytes() == b"\xff\xffspoilt"


async def test_a_request_that_cannot_be_read_stops_nothing(redis, tmp_path):
    hostile = oip.ModelInferRequest()
    # Two negative dimensions whose product is the number of its elements.
    hostile.inputs.add(name="x", datatype="FP32", shape=[-2, -1])
    hostile.raw_input_contents.append(b"\0" * 8)
    refused = call(1, error="INVALID_TENSOR")
    refused.call.request.inline = hostile.SerializeToString()
    await write(redis, call(0), refused, call(2))
    await collect(redis, tmp_path)
    rows = list(Archive(str(tmp_path)).rows(Query("m")))
    assert [row["request_id"] for row in rows] == ["r-0", "r-1", "r-2"]
    assert [row["inputs"] is None for row in rows] == [False, True, False]
    assert rows[1]["request"] == hostile.SerializeToString()


async def test_large_payloads_are_fetched_and_gone_ones_counted(redis, tmp_path):
    payloads = Payloads(str(tmp_path / "payloads"))
    kept, gone = call(0), call(1)
    kept.call.request.reference = await payloads.put(b"large", datetime.now(UTC))
    gone.call.request.reference = "2026-01-01T00/absent"
    await write(redis, kept, gone)
    collector = await collect(redis, tmp_path / "a", payloads)
    rows = list(Archive(str(tmp_path / "a")).rows(Query("m")))
    assert [row["request"] for row in rows] == [b"large", None]
    assert [row["inputs"] for row in rows] == [None, None]
    assert collector.counts.missing == 1


async def test_an_archive_that_cannot_be_written_loses_nothing(redis, tmp_path):
    await write(redis, call(0))
    (tmp_path / "calls").write_text("in the way")
    collector = Collector("m", redis, Partitions(str(tmp_path), "m"), None, Flush(rows=1), None)
    running = asyncio.create_task(collector.run())
    await asyncio.sleep(0.5)
    assert not running.done()
    (tmp_path / "calls").unlink()
    while not collector.counts.rows:
        await asyncio.sleep(0.05)
    collector.end()
    await running
    assert ids(tmp_path) == ["r-0"]


async def test_the_last_truth_about_a_call_holds(redis, tmp_path):
    await write(redis, call(0), feedback(0, label=[3]), feedback(0, label=[4], other="x"))
    await collect(redis, tmp_path)
    assert Archive(str(tmp_path)).truths("m") == {"r-0": {"label": [4.0], "other": "x"}}


async def test_days_are_merged_and_removed(redis, tmp_path):
    writer = None
    for n in range(4):
        writer = await write(redis, call(n), feedback(n, y=[1.0]), writer=writer)
        await collect(redis, tmp_path)
    partitions = Partitions(str(tmp_path), "m")
    folder = tmp_path / "calls" / "model=m" / "date=2026-03-01"
    assert len(list(folder.iterdir())) == 4
    before = list(Archive(str(tmp_path)).rows(Query("m")))
    assert partitions.merge("calls", "2026-03-01") == 4
    assert len(list(folder.iterdir())) == 1
    assert list(Archive(str(tmp_path)).rows(Query("m"))) == before
    # A late one comes to the same day, and is merged with them.
    await write(redis, call(9), writer=writer)
    await collect(redis, tmp_path)
    assert ids(tmp_path) == ["r-0", "r-1", "r-2", "r-3", "r-9"]
    partitions.merge("calls", "2026-03-01")
    assert ids(tmp_path) == ["r-0", "r-1", "r-2", "r-3", "r-9"]
    assert partitions.expire(timedelta(days=3), T0 + timedelta(days=2)) == 0
    assert partitions.expire(timedelta(days=3), T0 + timedelta(days=9)) == 2
    assert ids(tmp_path) == []


@pytest.mark.parametrize("read_before", range(1, 5))
async def test_who_reads_while_days_are_merged_gets_each_call_once(redis, tmp_path, read_before):
    writer = None
    for n in range(4):
        writer = await write(redis, call(n), feedback(n, y=[1.0]), writer=writer)
        await collect(redis, tmp_path)
    partitions = Partitions(str(tmp_path), "m")
    reading = Archive(str(tmp_path)).rows(Query("m", failed=False))
    found = []
    for row in reading:
        found.append(row["request_id"])
        if len(found) == read_before:
            partitions.merge("calls", "2026-03-01")
            # A late one, and another merge.
            await write(redis, call(9), writer=writer)
            await collect(redis, tmp_path)
        if len(found) == read_before + 1:
            partitions.merge("calls", "2026-03-01")
    assert found[:4] == ["r-0", "r-1", "r-2", "r-3"]
    # What came after the first look may be told or not.
    assert found[4:] in ([], ["r-9"])
    assert ids(tmp_path) == ["r-0", "r-1", "r-2", "r-3", "r-9"]


async def test_a_merge_that_was_killed_shows_each_call_once(redis, tmp_path):
    writer = None
    for n in range(3):
        writer = await write(redis, call(n), writer=writer)
        await collect(redis, tmp_path)
    folder = tmp_path / "calls" / "model=m" / "date=2026-03-01"
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    Partitions(str(tmp_path), "m").merge("calls", "2026-03-01")
    # The old ones are still there, as if it had died before it removed them.
    for name, data in kept.items():
        (folder / name).write_bytes(data)
    assert ids(tmp_path) == ["r-0", "r-1", "r-2"]
    await collect(redis, tmp_path)
    assert ids(tmp_path) == ["r-0", "r-1", "r-2"]


async def test_duckdb_and_polars_read_it(redis, tmp_path):
    await write(redis, *(call(n, version=1 + n % 2) for n in range(10)))
    await collect(redis, tmp_path)
    glob = f"{tmp_path}/calls/*/*/*.parquet"
    answer = duckdb.sql(
        f"select model, version, count(*), sum(outputs[1].numbers[1]) from "
        f"read_parquet('{glob}', hive_partitioning=true) group by all order by version"
    )
    assert answer is not None
    found = answer.fetchall()
    assert found == [("m", 1, 5, 40.0), ("m", 2, 5, 50.0)]
    frame = pl.read_parquet(glob, hive_partitioning=True)
    assert frame.height == 10
    assert frame["model"].unique().to_list() == ["m"]
    assert frame.filter(pl.col("version") == 2)["request_id"].len() == 5


def start(log, root):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "services.archive", "--listen", "127.0.0.1:0"),
            *("--events", log, "--archive", str(root)),
            *("--flush-seconds", "0.05", "--flush-rows", "40"),
        ],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


async def test_killed_again_and_again_it_has_each_call_once(log, redis, tmp_path):
    rng, writer, written = random.Random(4), Writer(redis), 0
    process = start(log, tmp_path)
    try:
        for _ in range(6):
            until = time.monotonic() + rng.uniform(0.4, 1.2)
            while time.monotonic() < until:
                five = batch(writer, *(call(written + i) for i in range(5)))
                written += 5
                await writer.write([five])
                await asyncio.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            process = start(log, tmp_path)
        await asyncio.to_thread(eventually, lambda: len(ids(tmp_path)) >= written)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    found = ids(tmp_path)
    assert len(found) == len(set(found)) == written
    assert json.dumps(sorted(found)) == json.dumps(sorted(f"r-{n}" for n in range(written)))
