"""The registry's work on its store ends when it is told to, whatever the store is doing."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from modelyard import redis_server
from modelyard.redis_client import connect
from modelyard.tasks import end
from services.registry import hosts
from services.registry.hosts import Leases, RedisLeases
from services.registry.redis_log import translated


async def test_leases_end_in_the_middle_of_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "REFRESH", 0.0)
    rng = random.Random(1)
    with redis_server.running(tmp_path, tmp_path / "s"):
        client: Any = connect(f"unix://{tmp_path / 's'}")
        store = RedisLeases(client, lambda _: b"", lambda _: (), translated)
        await store.put("supervisor", (), 60.0)
        for _ in range(20):
            leases = Leases(store, asyncio.get_running_loop().time)
            working = asyncio.create_task(leases.run())
            # Python below 3.12 loses about every second of these cancellations.
            await asyncio.sleep(0.01 + rng.random() * 0.004)
            async with asyncio.timeout(60):
                await end(working)
            assert working.cancelled()
        await client.aclose()
