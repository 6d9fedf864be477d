"""Reads the archive: by model, time, version and what became of calls."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from modelyard.archive.schema import CALLS, FEEDBACK, MERGED, PROGRESS, SCHEMAS, standing, stem
from modelyard.errors import StoreUnavailable

_BATCH = 512
_PARQUET = ds.ParquetFileFormat()


@dataclass(frozen=True, slots=True)
class Query:
    """Which calls.

    Attributes:
        model: The model's name.
        since: Calls from this time on.
        until: Calls before this time.
        version: Those that this version answered.
        tenant: Those of this tenant.
        failed: True for those that failed, False for those that did not, None for both.
        request_id: The one call of this id.
    """

    model: str
    since: datetime | None = None
    until: datetime | None = None
    version: int | None = None
    tenant: str | None = None
    failed: bool | None = None
    request_id: str | None = None


class Archive:
    """The archive at a place.

    Args:
        url: A folder, or an fsspec URL such as `s3://bucket/prefix`.
    """

    def __init__(self, url: str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(url)

    def models(self) -> list[str]:
        """The models that have calls in the archive."""
        root = f"{self._root}/{CALLS}"
        if not self._fs.exists(root):
            return []
        names = (str(path).rstrip("/").rpartition("/")[2] for path in self._fs.ls(root, False))
        return sorted(n.removeprefix("model=") for n in names if n.startswith("model="))

    def calls(self, query: Query, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The calls of a query, the earliest day first, in batches of bounded size.

        Raises:
            StoreUnavailable: The archive does not answer.
        """
        schema, where = SCHEMAS[CALLS], _filter(query)
        for day in self._days(CALLS, query):
            # Within a day, files are in the order in which they were written.
            for fragment, skip in self._fragments(CALLS, query.model, day):
                if skip:
                    table = fragment.to_table(schema, use_threads=False).slice(skip)
                    table = table.filter(where) if where is not None else table
                    batches = table.select(columns or schema.names).to_batches(_BATCH)
                else:
                    batches = fragment.to_batches(
                        schema, columns, where, batch_size=_BATCH, use_threads=False
                    )
                yield from (batch for batch in batches if batch.num_rows)

    def rows(self, query: Query, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """The calls of a query as dicts."""
        for batch in self.calls(query, columns):
            yield from batch.to_pylist()

    def truths(self, model: str, since: datetime | None = None) -> dict[str, dict[str, Any]]:
        """The last truth about each call, by request id and output."""
        query = Query(model, since=since)
        found: dict[str, dict[str, Any]] = {}
        seen: dict[tuple[str, str], datetime] = {}
        for day in self._days(FEEDBACK, query):
            for fragment, skip in self._fragments(FEEDBACK, model, day):
                table = fragment.to_table(SCHEMAS[FEEDBACK], use_threads=False).slice(skip)
                for row in table.to_pylist():
                    key = (row["request_id"], row["output"])
                    if key in seen and seen[key] > row["time"]:
                        continue
                    seen[key] = row["time"]
                    truths = found.setdefault(row["request_id"], {})
                    truths[row["output"]] = json.loads(row["truth"])
        return found

    def _days(self, table: str, query: Query) -> list[str]:
        """The partitions that a query needs."""
        root = f"{self._root}/{table}/model={query.model}"
        try:
            if not self._fs.exists(root):
                return []
            days = sorted(str(path).rstrip("/") for path in self._fs.ls(root, False))
        except OSError as error:
            raise StoreUnavailable(f"the archive does not answer: {error}") from error
        kept = []
        for path in days:
            day = path.rpartition("date=")[2]
            if query.since is not None and day < _day(query.since):
                continue
            # A truth comes after its call, so only calls end with the query.
            if query.until is not None and table == CALLS and day > _day(query.until):
                continue
            kept.append(path)
        return kept

    def _last(self, model: str) -> str:
        """How far the log surely is in the archive: the name of the newest progress."""
        names = self._names(f"{self._root}/{PROGRESS}/model={model}")
        return max((name for name in names if not name.endswith(".part")), default="")

    def _names(self, folder: str) -> list[str]:
        # An object store's client remembers listings; ours must be of now.
        self._fs.invalidate_cache()
        if not self._fs.exists(folder):
            return []
        return [str(path).rstrip("/").rpartition("/")[2] for path in self._fs.ls(folder, False)]

    def _fragments(self, table: str, model: str, day: str) -> Iterator[tuple[ds.Fragment, int]]:
        """The files of a day, open, each with the rows of it that were given before.

        Files go while they are read: merged into one, which begins with all that they hold, in
        their order. Who has read some of them goes on in that one.

        Raises:
            StoreUnavailable: The archive does not answer.
        """
        done, rows = "", 0
        try:
            while True:
                # In this order: what is written between the two looks counts by the second.
                names = self._names(day)
                names = standing(names, self._last(model))
                left = [name for name in names if stem(name) > done]
                if not left:
                    return
                skip = rows if left[0].startswith(MERGED) else 0
                for name in left:
                    try:
                        file = self._fs.open(f"{day}/{name}")
                    except FileNotFoundError:
                        break
                    with file:
                        fragment = _PARQUET.make_fragment(file)
                        yield fragment, skip
                        rows += fragment.count_rows() - skip
                    done, skip = stem(name), 0
                else:
                    return
        except OSError as error:
            raise StoreUnavailable(f"the archive does not answer: {error}") from error


def _day(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d")


def _filter(query: Query) -> Any:
    terms = []
    if query.since is not None:
        terms.append(pc.field("time") >= pa.scalar(query.since, pa.timestamp("us", "UTC")))
    if query.until is not None:
        terms.append(pc.field("time") < pa.scalar(query.until, pa.timestamp("us", "UTC")))
    if query.version is not None:
        terms.append(pc.field("version") == query.version)
    if query.tenant is not None:
        terms.append(pc.field("tenant") == query.tenant)
    if query.request_id is not None:
        terms.append(pc.field("request_id") == query.request_id)
    if query.failed is not None:
        failed = pc.field("error").is_valid()
        terms.append(failed if query.failed else ~failed)
    joined = None
    for term in terms:
        joined = term if joined is None else joined & term
    return joined
