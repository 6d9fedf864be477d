"""The catalogue outlives its supervisor."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

from modelyard.catalog import Catalog, Change, File, Signature, Version, VersionRegistered
from modelyard.names import VersionName
from services.inference.saved import SavedCatalog

FILE = File("model.onnx", "sha256:" + "a" * 64, 7)
CATALOG = Catalog().apply(
    Change(
        1,
        datetime(2030, 1, 1, tzinfo=UTC),
        VersionRegistered(
            Version(
                VersionName("a", 1),
                FILE.digest,
                (FILE,),
                Signature(),
                datetime(2030, 1, 1, tzinfo=UTC),
            )
        ),
    )
)


async def test_it_comes_back(tmp_path):
    saved = SavedCatalog(tmp_path / "catalog.pb")
    assert saved.load() is None
    task = asyncio.create_task(saved.run())
    saved.offer(Catalog())
    saved.offer(CATALOG)
    async with asyncio.timeout(30):
        while saved.load() is None:
            await asyncio.sleep(0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert SavedCatalog(tmp_path / "catalog.pb").load() == CATALOG
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.pb"]


def test_a_damaged_file_is_no_catalogue(tmp_path):
    path = tmp_path / "catalog.pb"
    path.write_bytes(b"\xff\xff\xff")
    assert SavedCatalog(path).load() is None
