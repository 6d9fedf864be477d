"""The archive's files: written so that a crash at any moment leaves each event in it once.

A write takes some entries of the log in and makes a file in each partition that they concern, all
named by the last of these entries; then, as the one moment that counts, it makes the progress file
of the model, by the same name. Files that are newer than the newest progress are of a write that
never ended: they go when the next writer starts, and their events come again.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from modelyard.archive.schema import (
    MERGED,
    PROGRESS,
    RECURRING,
    SCHEMAS,
    SUFFIX,
    file_id,
    standing,
    stem,
)
from modelyard.errors import StoreUnavailable
from modelyard.events.progress import Progress
from modelyard.events.v1 import event_pb2

_SPOILT = "_spoilt"

# A table, and a day.
Partition = tuple[str, str]


class Partitions:
    """The files of one model.

    Args:
        url: Of the archive: a folder, or an fsspec URL.
        model: The model's name.
    """

    def __init__(self, url: str, model: str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._model = model

    def open(self) -> Progress:
        """How far the log is in the archive; removes what a write that never ended has left.

        Raises:
            StoreUnavailable: The archive does not answer.
        """
        with _answering():
            names = self._names(self._progress_folder())
            kept = [name for name in names if not name.endswith(".part")]
            progress, last = Progress(), ""
            if kept:
                last = kept[-1]
                data = self._fs.cat_file(f"{self._progress_folder()}/{last}")
                progress = Progress.from_proto(event_pb2.Progress.FromString(data))
            for table in SCHEMAS:
                for day in self.days(table):
                    folder = self._folder(table, day)
                    for name in self._names(folder):
                        if not name.endswith(SUFFIX) or stem(name) > last:
                            self._fs.rm(f"{folder}/{name}")
        return progress

    def write(self, tables: Mapping[Partition, pa.Table], now: Progress) -> int:
        """Takes rows in, and with them how far the log is.

        Returns:
            The bytes that were written.

        Raises:
            StoreUnavailable: They are not taken in, or it is not known; they may be written again
                after `open`.
        """
        name, written = file_id(now.position), 0
        with _answering():
            for (table, day), rows in sorted(tables.items()):
                data = _parquet(rows)
                self._put(f"{self._folder(table, day)}/{name}{SUFFIX}", data)
                written += len(data)
            self._put(f"{self._progress_folder()}/{name}", now.to_proto().SerializeToString())
            for old in self._names(self._progress_folder()):
                if old < name:
                    self._fs.rm(f"{self._progress_folder()}/{old}")
        return written

    def set_aside(self, position: str, spoilt: Sequence[bytes]) -> None:
        """Keeps bytes that are no events. Raises StoreUnavailable."""
        with _answering():
            for index, data in enumerate(spoilt):
                folder = f"{self._root}/{_SPOILT}/model={self._model}"
                self._put(f"{folder}/{file_id(position)}-{index}.bin", data)

    def merge(self, table: str, day: str) -> int:
        """Makes one file of a day's many; gives how many there were.

        A crash leaves the old ones beside the new one, which says by its name that they do not
        count; the next merge removes them.

        Raises:
            StoreUnavailable: The archive does not answer.
        """
        folder = self._folder(table, day)
        with _answering():
            files = standing(self._names(folder))
            if len(files) > 1:
                last = files[-1].removeprefix(MERGED)
                tables = (self._read(f"{folder}/{name}") for name in files)
                self._put(f"{folder}/{MERGED}{last}", _parquet(pa.concat_tables(tables)))
            names = self._names(folder)
            for name in set(names) - set(standing(names)):
                self._fs.rm(f"{folder}/{name}")
        return len(files)

    def expire(self, age: timedelta, now: datetime) -> int:
        """Removes days that are too old; gives how many. Raises StoreUnavailable."""
        oldest, removed = (now.astimezone(UTC) - age).strftime("%Y-%m-%d"), 0
        with _answering():
            for table in SCHEMAS:
                for day in self.days(table):
                    if day < oldest:
                        self._fs.rm(self._folder(table, day), recursive=True)
                        removed += 1
        return removed

    def days(self, table: str) -> list[str]:
        """The days of a table."""
        names = self._names(f"{self._root}/{table}/model={self._model}")
        return [name.removeprefix("date=") for name in names if name.startswith("date=")]

    def _read(self, path: str) -> pa.Table:
        return pq.read_table(BytesIO(self._fs.cat_file(path)))

    def _folder(self, table: str, day: str) -> str:
        return f"{self._root}/{table}/model={self._model}/date={day}"

    def _progress_folder(self) -> str:
        return f"{self._root}/{PROGRESS}/model={self._model}"

    def _names(self, folder: str) -> list[str]:
        # An object store's client remembers listings; ours must be of now.
        self._fs.invalidate_cache()
        if not self._fs.exists(folder):
            return []
        paths = self._fs.ls(folder, detail=False)
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in paths)

    def _put(self, path: str, data: bytes) -> None:
        """A file whole, or not at all; an object store's PUT is so by itself."""
        if not isinstance(self._fs, LocalFileSystem):
            self._fs.pipe_file(path, data)
            return
        os.makedirs(path.rpartition("/")[0], exist_ok=True)
        part = f"{path}.part"
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


def _parquet(table: pa.Table) -> bytes:
    out = BytesIO()
    pq.write_table(table, out, compression="zstd", use_dictionary=list(RECURRING))
    return out.getvalue()


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"the archive does not answer: {error}") from error
