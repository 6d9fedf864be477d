"""What lasts of evaluations, and for how long."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from modelyard import redis_server
from modelyard.errors import EvaluationNotFound
from modelyard.redis_client import connect
from modelyard.shadow.v1 import evaluation_pb2
from services.shadow.manager import Manager
from services.shadow.session import Tools
from services.shadow.store import Store

State = evaluation_pb2.Evaluation.State


@pytest.fixture
async def redis(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("r")
    with redis_server.running(folder, folder / "s"):
        client = connect(f"unix://{folder / 's'}")
        yield client
        await client.aclose()


def evaluation(name: str, state: "State.ValueType", days_ago: float) -> evaluation_pb2.Evaluation:
    made = evaluation_pb2.Evaluation(name=f"models/m/evaluations/{name}", state=state)
    if state == State.STATE_DECIDED:
        made.end_time.FromDatetime(datetime.now(UTC) - timedelta(days=days_ago))
    return made


async def test_a_request_makes_one_evaluation(redis: Any) -> None:
    store = Store(redis)
    assert await store.made("r-1", "one") == "one"
    assert await store.made("r-1", "two") == "one"
    assert await store.made("r-2", "two") == "two"


async def test_what_ended_long_ago_is_forgotten_and_nothing_else(redis: Any) -> None:
    store, nothing = (
        Store(redis),
        dict.fromkeys(("redis", "payloads", "yard", "hosts", "catalog", "archived")),
    )
    old = evaluation("old", State.STATE_DECIDED, 40)
    young = evaluation("young", State.STATE_DECIDED, 20)
    for held in (old, young):
        await store.put(held)
        await store.keep(held.name, {"seen": 1})
    manager = Manager(Tools(store=store, **nothing))  # type: ignore[arg-type]
    await manager.open()
    tidying = asyncio.create_task(manager.tidy(timedelta(days=30)))
    async with asyncio.timeout(30):
        while len(manager.evaluations) > 1:
            await asyncio.sleep(0.01)
    tidying.cancel()
    with pytest.raises(EvaluationNotFound):
        manager.get(old.name)
    assert [held.name for held in await store.all()] == [young.name]
    assert await store.kept(old.name) is None
    assert await store.kept(young.name) == {"seen": 1}
