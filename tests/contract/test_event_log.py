"""The event log on a real Redis: what is written is read once, in order, whatever dies."""

import asyncio
import os
import signal
from datetime import UTC, datetime, timedelta
from itertools import chain

import pytest

from modelyard import redis_server
from modelyard.errors import BlobNotFound, StoreUnavailable
from modelyard.events.payloads import Payloads
from modelyard.events.progress import Progress
from modelyard.events.reader import Reader, fresh, models
from modelyard.events.streams import Entry, decoded, fields_of, stream_key
from modelyard.events.v1 import event_pb2
from modelyard.events.writer import Bounds, Writer
from modelyard.redis_client import connect
from tests.kit.events import batch, call


@pytest.fixture
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r")
    with redis_server.running(folder, folder / "s", fsync="everysec"):
        yield f"unix://{folder / 's'}"


@pytest.fixture
async def redis(server):
    client = connect(server)
    yield client
    await client.aclose()


def some(count, start=0):
    return [call(number).SerializeToString() for number in range(start, start + count)]


def entry(events):
    return fields_of(event_pb2.Entry(events=events, writer="w", first=1))


async def write(writer, count, start=0):
    await writer.write([batch(writer, *map(call, range(start, start + count)))])


async def drain(reader, progress, count=100):
    taken = []
    while entries := await reader.read(count):
        for entry in entries:
            taken += [event.call.request_id for event in decoded(entry, fresh(progress, entry))]
        await reader.done(progress.position)
    return taken


def requests(*ranges):
    return [f"r-{i}" for numbers in ranges for i in numbers]


async def test_what_is_written_is_read_in_order(redis):
    writer = Writer(redis)
    await write(writer, 10)
    await write(writer, 5, 10)
    progress = Progress()
    assert await drain(Reader(redis, "g", "m"), progress) == requests(range(15))
    assert (progress.taken, progress.duplicates, progress.lost) == (15, 0, 0)
    assert await models(redis) == {"m"}


async def test_an_event_has_its_number_from_its_entry(redis):
    writer = Writer(redis)
    await write(writer, 2)
    # Whatever an event itself says: it is its entry that was numbered.
    liar = event_pb2.Event(id="another-1", model="models/m").SerializeToString()
    third = writer.number("m", [liar])
    await writer.write([third])
    assert third.ids == [f"{writer.id}-3"]
    entries = await Reader(redis, "g", "m").read(10)
    progress = Progress()
    events = chain(*(decoded(entry, fresh(progress, entry)) for entry in entries))
    assert [event.id for event in events] == [f"{writer.id}-{number}" for number in (1, 2, 3)]


async def test_a_batch_that_was_written_again_is_taken_once(redis):
    writer = Writer(redis)
    twice = batch(writer, *map(call, range(4)))
    await writer.write([twice])
    await writer.write([twice])
    progress = Progress()
    assert await drain(Reader(redis, "g", "m"), progress) == requests(range(4))
    assert (progress.taken, progress.duplicates) == (4, 4)


async def test_a_reader_that_died_goes_on_where_its_progress_was_kept(redis):
    writer = Writer(redis)
    for start in range(0, 30, 3):
        await write(writer, 3, start)
    progress = Progress()
    first = Reader(redis, "g", "m")
    entries = await first.read(4)
    taken = []
    for entry in entries[:2]:
        taken += [e.call.request_id for e in decoded(entry, fresh(progress, entry))]
    kept = Progress.from_proto(progress.to_proto())
    # It dies here: two entries taken in and kept, two read and not, none acknowledged.
    second = Reader(redis, "g", "m", kept.position)
    assert taken + await drain(second, kept) == requests(range(30))
    assert (kept.taken, kept.duplicates, kept.lost) == (30, 0, 0)
    waiting = await redis.xpending(stream_key("m"), "g")
    assert waiting["pending"] == 0


async def test_who_begins_now_sees_what_comes(redis):
    writer = Writer(redis)
    await write(writer, 3)
    reader, progress = Reader(redis, "late", "m", "$"), Progress()
    assert await reader.read(10) == []
    await write(writer, 2, 3)
    assert await drain(reader, progress) == requests(range(3, 5))
    assert progress.lost == 0


async def test_who_began_and_died_before_anything_was_kept_misses_nothing(redis):
    writer = Writer(redis)
    await write(writer, 3)
    first = Reader(redis, "late", "m", "$")
    await first.open()
    await write(writer, 2, 3)
    await first.read(1)
    await write(writer, 2, 5)
    # It dies here, and with it what it was given.
    second, progress = Reader(redis, "late", "m", "$"), Progress()
    assert await drain(second, progress) == requests(range(3, 7))


async def test_who_died_after_redis_did_misses_nothing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r")
    with redis_server.running(folder, folder / "s", fsync="always") as process:
        client = connect(f"unix://{folder / 's'}")
        writer, first = Writer(client), Reader(client, "late", "m", "$")
        await first.open()
        for start in (0, 2, 4):
            await write(writer, 2, start)
            await first.read(1)
        os.kill(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        with pytest.raises(StoreUnavailable):
            await first.read(1)
    (folder / "s").unlink(missing_ok=True)
    with redis_server.running(folder, folder / "s", fsync="always"):
        assert await first.read(1) == []
        await write(writer, 2, 6)
        # It dies here: nothing of what it was given is done.
        second, progress = Reader(client, "late", "m", "$"), Progress()
        assert await drain(second, progress, 1) == requests(range(8))
        assert progress.lost == progress.duplicates == 0
        await client.aclose()


async def test_a_full_stream_drops_the_oldest_and_the_gap_says_how_many(redis):
    writer = Writer(redis, Bounds(length=500))
    await write(writer, 1)
    reader, progress = Reader(redis, "g", "m"), Progress()
    await drain(reader, progress)
    for start in range(1, 3001, 10):
        await write(writer, 10, start)
    taken = await drain(reader, progress)
    assert taken[-1] == "r-3000"
    assert len(taken) < 3000
    assert progress.taken + progress.lost == 3001
    assert progress.lost >= 1000


async def test_what_is_too_old_is_cut_off(redis):
    writer = Writer(redis, Bounds(age=3600))
    old = int((datetime.now(UTC) - timedelta(hours=2)).timestamp() * 1000)
    for index in range(300):
        await redis.xadd(stream_key("m"), entry([b"x" * 50]), id=f"{old + index}-0")
    await write(writer, 1)
    assert await redis.xlen(stream_key("m")) < 150


async def test_what_is_no_event_is_passed_over(redis):
    await redis.xadd(stream_key("m"), entry([b"\xff\xff"]))
    await redis.xadd(stream_key("m"), {b"other": b"what"})
    await redis.xadd(stream_key("m"), fields_of(event_pb2.Entry(events=some(1))))
    await write(Writer(redis), 1)
    entries = await Reader(redis, "g", "m").read(10)
    nobodys = fields_of(event_pb2.Entry(events=some(1)))[b"events"]
    assert [e.spoilt for e in entries] == [(), (b"what",), (nobodys,), ()]
    progress = Progress()
    found = [(entry, fresh(progress, entry)) for entry in entries]
    assert [len(places) for _, places in found] == [1, 0, 0, 1]
    assert [len(decoded(*one)) for one in found] == [0, 0, 0, 1]


async def test_calls_that_do_not_fit_together_are_passed_over(redis):
    whole = batch(Writer(redis), call(0), call(1))
    for calls, count in ((whole.calls, 3), (b"\xff" * 16, 2), (whole.calls, 2)):
        entry = event_pb2.Entry(calls=calls, count=count, writer="w", first=1)
        await redis.xadd(stream_key("m"), fields_of(entry))
    both = event_pb2.Entry(calls=whole.calls, count=2, events=some(1), writer="w", first=1)
    wrong = [
        event_pb2.Entry(calls=whole.calls, count=count, writer="w", first=1)
        for count in (-1, 1 << 40)
    ]
    for entry in (both, *wrong):
        await redis.xadd(stream_key("m"), fields_of(entry))
    entries = await Reader(redis, "g", "m").read(10)
    assert [len(e.spoilt) for e in entries] == [0, 0, 0, 1, 1, 1]
    found = [decoded(entry, range(entry.count)) for entry in entries]
    assert [[e.id for e in events] for events in found] == [[], [], ["w-1", "w-2"], [], [], []]


async def test_an_entry_of_which_a_part_was_read_gives_the_rest(redis):
    whole, progress = batch(Writer(redis), *map(call, range(4))), Progress()
    progress.take("1-0", whole.writer, 1, 2)
    entry = Entry("2-0", whole.writer, 1, 4, calls=whole.calls)
    places = fresh(progress, entry)
    assert [e.call.request_id for e in decoded(entry, places)] == requests(range(2, 4))
    assert [e.id for e in decoded(entry, places)] == whole.ids[2:]


async def test_entries_that_were_cut_off_unread_hold_nothing_up(redis):
    writer = Writer(redis)
    for start in range(0, 9, 3):
        await write(writer, 3, start)
    reader, progress = Reader(redis, "g", "m"), Progress()
    assert len(await reader.read(3)) == 3
    await redis.xtrim(stream_key("m"), maxlen=1, approximate=False)
    again = Reader(redis, "g", "m")
    assert await drain(again, progress) == requests(range(6, 9))


async def test_redis_is_away_and_comes_back(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r")
    with redis_server.running(folder, folder / "s", fsync="always") as process:
        client = connect(f"unix://{folder / 's'}")
        writer, reader, progress = Writer(client), Reader(client, "g", "m"), Progress()
        await write(writer, 3)
        taken = await drain(reader, progress)
        os.kill(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        three = batch(writer, *map(call, range(3, 6)))
        with pytest.raises(StoreUnavailable):
            await writer.write([three])
        with pytest.raises(StoreUnavailable):
            await reader.read(10)
    (folder / "s").unlink(missing_ok=True)
    with redis_server.running(folder, folder / "s", fsync="always"):
        await writer.write([three])
        taken += await drain(reader, progress)
        assert taken == requests(range(6))
        assert progress.lost == progress.duplicates == 0
        await client.aclose()


async def test_a_group_that_someone_removed_is_made_again_where_the_reader_stood(redis):
    writer, reader, progress = Writer(redis), Reader(redis, "g", "m"), Progress()
    await write(writer, 3)
    taken = await drain(reader, progress)
    await redis.xgroup_destroy(stream_key("m"), "g")
    await write(writer, 3, 3)
    await reader.read(10)
    taken += await drain(reader, progress)
    assert taken == requests(range(6))
    assert progress.duplicates == 0


async def test_payloads_are_kept_for_a_while(tmp_path):
    store, now = Payloads(str(tmp_path / "p"), timedelta(hours=2)), datetime.now(UTC)
    reference = await store.put(b"x" * 100, now)
    assert await store.put(b"x" * 100, now) == reference
    payload = event_pb2.Payload(reference=reference, size=100)
    assert await store.get(payload) == b"x" * 100
    assert await store.get(event_pb2.Payload(inline=b"abc")) == b"abc"
    await store.expire(now + timedelta(hours=2))
    assert await store.get(payload) == b"x" * 100
    assert await store.expire(now + timedelta(hours=4)) == 1
    with pytest.raises(BlobNotFound):
        await store.get(payload)
