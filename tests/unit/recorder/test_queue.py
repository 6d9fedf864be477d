"""Records that wait to be written."""

import asyncio

import pytest

from gateway.recorder import queue as queues
from gateway.recorder.queue import Done, Queue, Record
from modelyard.events.event import facts_of
from tests.kit import virtual_time
from tests.kit.events import call


def record(size=100):
    return Record(facts_of(call()), size)


async def test_a_take_waits_for_something_and_is_bounded():
    queue = Queue()
    waiting = asyncio.create_task(queue.filled())
    await asyncio.sleep(0)
    assert not waiting.done()
    for _ in range(3):
        queue.put([record()])
    await waiting
    assert len(queue.take(10, 150)) == 2
    assert len(queue.take(10, 1)) == 1
    assert (queue.take(10, 1), len(queue)) == ([], 0)


def test_records_gather_until_they_are_worth_a_write_or_time_is_up(monkeypatch):
    monkeypatch.setattr(queues, "WRITE", 3)

    async def main():
        loop, queue = asyncio.get_running_loop(), Queue()

        async def waited():
            began = loop.time()
            await queue.enough(0.5)
            return loop.time() - began

        queue.put([record()])
        assert await waited() == pytest.approx(0.5)
        for _ in range(2):
            queue.put([record()])
        assert await waited() == 0.0
        # What is left after a write waits for more of its kind.
        queue.take(2, 1 << 20)
        assert await waited() == pytest.approx(0.5)
        # Nothing more comes.
        queue.hurry()
        assert await waited() == 0.0

    virtual_time.run(main())


async def test_news_are_told_once_and_together():
    queue = Queue()
    queue.done(10, written=2)
    queue.done(5, dropped=1)
    assert await queue.news() == Done(2, 1, 15)
    assert queue.rest() == Done()
    waiting = asyncio.create_task(queue.news())
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.done(1, written=1)
    assert await waiting == Done(1, 0, 1)
