"""The catalogue as last heard, kept over a restart.

Hosts can be started while the registry is away.
"""

import asyncio
import os
from pathlib import Path

import structlog
from google.protobuf.message import DecodeError

from modelyard.catalog import Catalog
from modelyard.catalog.convert import snapshot_from, snapshot_to
from modelyard.errors import InvalidName
from modelyard.registry.v1 import registry_service_pb2

_log = structlog.get_logger(__name__)

# Changes that come together are written together. In seconds.
_GATHER = 0.2


class SavedCatalog:
    """A file with a snapshot.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest: Catalog | None = None
        self._changed = asyncio.Event()

    def load(self) -> Catalog | None:
        """The catalogue that was saved; None when there is none that can be read."""
        try:
            content = self._path.read_bytes()
            return snapshot_from(registry_service_pb2.Snapshot.FromString(content))
        except FileNotFoundError:
            return None
        except (OSError, DecodeError, InvalidName, ValueError, KeyError) as error:
            _log.warning("the saved catalogue cannot be read", error=str(error))
            return None

    def offer(self, catalog: Catalog) -> None:
        """The catalogue as it is now; written soon."""
        if catalog is not self._newest:
            self._newest = catalog
            self._changed.set()

    async def run(self) -> None:
        """Writes what is offered until it is cancelled. A full disk costs only the file."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_GATHER)
            self._changed.clear()
            assert self._newest is not None
            try:
                await asyncio.to_thread(self._write, self._newest)
            except OSError as error:
                _log.warning("the catalogue cannot be saved", error=error.strerror)

    def _write(self, catalog: Catalog) -> None:
        part = self._path.with_suffix(".part")
        with part.open("wb") as file:
            file.write(snapshot_to(catalog).SerializeToString())
            file.flush()
            # Renamed before its content is on the disk it could be found empty after a power cut.
            os.fsync(file.fileno())
        part.replace(self._path)
