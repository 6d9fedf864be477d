"""How many records a second, and how much memory (`python -m benchmarks.records`).

On one core, with a real Redis: what a recorder does (calls packed, numbered, written), the
archive, and an evaluation's reading and comparing without the models' own time. Then a backlog: so
many records wait in the log, and its readers' memory is looked at while they take them in. Results
go to benchmarks/results/records.{md,json}.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import machine, models, report
from benchmarks.compare import save
from gateway.call import Answer, Call, Made
from gateway.plan import Kind
from gateway.recorder.facts import Describer
from gateway.recorder.queue import WRITE
from gateway.tap import Tap
from modelyard import redis_server
from modelyard.catalog import Catalog, Route, Tensor
from modelyard.catalog.model import frozen
from modelyard.events.calls import Facts, pack
from modelyard.events.progress import Progress
from modelyard.events.reader import Reader, fresh
from modelyard.events.streams import decoded
from modelyard.events.writer import Bounds, Writer
from modelyard.inference.v2 import open_inference_pb2 as oip
from modelyard.names import VersionName
from modelyard.redis_client import connect
from services.archive.collector import Collector, Flush
from services.archive.partitions import Partitions
from services.shadow.comparators.choose import chosen_for
from services.shadow.evidence import Evidence
from services.shadow.observation import Observation, Reply
from services.shadow.plan import Plan
from services.shadow.read import request_of

MODEL = "mlp"
V1 = VersionName(MODEL, 1)


def answer_of(request: bytes) -> bytes:
    """An answer as a host gives it: y FP32 [1, 64]."""
    message = oip.ModelInferResponse(model_name=MODEL, model_version="1")
    message.outputs.add(name="y", datatype="FP32", shape=[1, 64])
    message.raw_output_contents.append(np.ones((1, 64), np.float32).tobytes())
    return message.SerializeToString()


def recorded(count: int, request: bytes, answer: bytes) -> list[bytes]:
    """Calls as a recorder makes them, serialized: so many as go with a write at a time."""
    catalog = Catalog(1, routes=frozen({MODEL: Route(MODEL, tap=1.0)}))
    describe = Describer()
    tap = Tap(lambda: catalog, time.monotonic)
    facts: list[Facts] = []
    for index in range(count):
        call = Call(MODEL, "", request, time.monotonic() + 1, f"r-{index}", (("x-user", "anna"),))
        recording = tap.begin(call)
        assert recording is not None
        assert call.trail is not None
        call.trail.append(Made(V1, Kind.PRIMARY, 0.0, "host", 0.001, "answered"))
        recording.answer = Answer(answer, V1, Kind.PRIMARY, 1, "host")
        facts.append(describe(recording))
    return [
        pack(facts[start : start + WRITE]).SerializeToString() for start in range(0, count, WRITE)
    ]


async def write(writer: Writer, calls: Sequence[bytes]) -> None:
    for some in calls:
        await writer.write([writer.number_calls(MODEL, some, WRITE)])


async def evaluated(redis: Any, count: int) -> tuple[float, float]:
    """Reads, decodes, compares; gives records a second and the most memory, in MiB."""
    outputs = {"y": Tensor("y", "FP32", ("N", 64))}
    evidence = Evidence(2, Plan(), chosen_for(outputs, {}), {})
    reader, progress, began = Reader(redis, "shadow:benchmark", MODEL), Progress(), time.monotonic()
    most = 0.0
    while progress.taken < count:
        most = max(most, psutil.Process().memory_info().rss / 2**20)
        for entry in await reader.read(8):
            for event in decoded(entry, fresh(progress, entry)):
                request = await request_of(event, None)
                assert request is not None
                reply = Reply(0.001, request.outputs, raw=request.response)
                evidence.observe(
                    Observation(
                        request.id,
                        request.time,
                        request.metadata,
                        request.inputs,
                        request.outputs,
                        request.seconds,
                        {2: reply},
                        reply,
                    )
                )
        await reader.done(progress.position)
    rate = count / (time.monotonic() - began)
    await reader.leave()
    return rate, most


async def archived(redis: Any, root: Path) -> tuple[float, float]:
    """Carries the log to Parquet; gives records a second and the most memory, in MiB."""
    collector = Collector(MODEL, redis, Partitions(str(root), MODEL), None, Flush(), None)
    collector.end()
    most = 0.0
    began = time.monotonic()
    running = asyncio.create_task(collector.run())
    while not running.done():
        most = max(most, psutil.Process().memory_info().rss / 2**20)
        await asyncio.sleep(0.2)
    await running
    return collector.counts.rows / (time.monotonic() - began), most


async def run(count: int, backlog: int, folder: Path) -> dict[str, Any]:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    request = models.request(MODEL, (1, 64))
    answer = answer_of(request)
    found: dict[str, Any] = {"machine": machine.describe(), "records": count, "backlog": backlog}
    with redis_server.running(folder, folder / "s", fsync="everysec"):
        redis = connect(f"unix://{folder / 's'}")
        began = time.monotonic()
        calls = recorded(count, request, answer)
        found["told of and packed"] = count / (time.monotonic() - began)
        found["bytes a record"] = round(len(calls[0]) / WRITE)
        # A backlog is what is looked at: nothing is cut off.
        writer = Writer(redis, Bounds(length=1 << 30, size=1 << 40))
        began = time.monotonic()
        await write(writer, calls)
        found["numbered and written"] = count / (time.monotonic() - began)
        found["read, decoded and compared"], _ = await evaluated(redis, count)
        rate, _ = await archived(redis, folder / "archive")
        found["archived"] = rate
        print(found, flush=True)
        left = backlog
        while written := min(left, count):
            await write(writer, calls[: written // WRITE])
            left -= written
        del calls
        before = psutil.Process().memory_info().rss / 2**20
        found["backlog, archived"], archive = await archived(redis, folder / "archive")
        found["backlog, compared"], evaluation = await evaluated(redis, backlog)
        found["backlog, memory"] = [before, archive, evaluation]
        info = await redis.info("memory")
        found["backlog, redis"] = info["used_memory"] / 2**20
        await redis.aclose()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=160 * WRITE)
    parser.add_argument("--backlog", type=int, default=8_000 * WRITE)
    given = parser.parse_args()
    # Whole writes.
    given.records -= given.records % WRITE
    given.backlog -= given.backlog % WRITE
    with tempfile.TemporaryDirectory() as held:
        found = asyncio.run(run(given.records, given.backlog, Path(held)))
    steps = (
        "told of and packed",
        "numbered and written",
        "read, decoded and compared",
        "archived",
        "backlog, archived",
        "backlog, compared",
    )
    rows = [[step, f"{found[step]:,.0f}"] for step in steps]
    before, archive, evaluation = found["backlog, memory"]
    title = "# Records a second, on one core\n\n"
    told = (
        f"Calls of a 1x64 MLP, {found['bytes a record']:,} bytes a record; {found['records']:,} of"
        f" them, then a backlog of {found['backlog']:,}.\nThis one process had {before:,.0f} MiB"
        f" before it read the backlog, {archive:,.0f} MiB at most while it was archived and"
        f" {evaluation:,.0f} MiB while it was\ncompared; Redis held"
        f" {found['backlog, redis']:,.0f} MiB.\n\n"
    )
    text = title + report.machine(found["machine"]) + "\n" + told
    save("records", text + report.table(["step", "records a second"], rows), found)


if __name__ == "__main__":
    main()
