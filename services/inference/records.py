"""What the next supervisor needs to find living hosts again: one small file a host."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from modelyard.errors import InvalidName
from modelyard.names import VersionName


@dataclass(frozen=True, slots=True)
class Record:
    """A host's process.

    Attributes:
        id: The host.
        pid: Its process.
        started: When the kernel began it: boot id and clock ticks since then. With the pid it names
            one process for ever, whatever the wall clock does.
        version: What it serves.
        digest: Of the artifact.
        restarts: How often the host was started again.
        stages: The file with what it says of itself, a JSON object a line.
        log: The file with its standard error.
        unwanted: True once it was asked to end.
    """

    id: str
    pid: int
    started: str
    version: VersionName
    digest: str
    restarts: int
    stages: Path
    log: Path
    unwanted: bool = False


class Records:
    """The files `<id>.json` of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, record: Record) -> None:
        """Keeps the record; a reader sees the old or the new one, never half of it."""
        values = asdict(record)
        values.update(version=str(record.version), stages=str(record.stages), log=str(record.log))
        part = self._folder / f".{record.id}.part"
        part.write_text(json.dumps(values))
        part.replace(self._folder / f"{record.id}.json")

    def mark_unwanted(self, id: str) -> None:
        """Notes that the host was asked to end."""
        record = self._read(self._folder / f"{id}.json")
        if record is not None:
            self.write(replace(record, unwanted=True))

    def remove(self, id: str) -> None:
        """Drops the record, where there is one."""
        (self._folder / f"{id}.json").unlink(missing_ok=True)

    def __iter__(self) -> Iterator[Record]:
        for path in sorted(self._folder.glob("*.json")):
            record = self._read(path)
            if record is None:
                # Of another release, or damaged: the host behind it ends by its orphan grace.
                path.unlink(missing_ok=True)
            else:
                yield record

    @staticmethod
    def _read(path: Path) -> Record | None:
        try:
            values = json.loads(path.read_text())
            fields = {
                **values,
                "version": VersionName.parse(values["version"]),
                "stages": Path(values["stages"]),
                "log": Path(values["log"]),
            }
            return Record(**fields)
        except (OSError, ValueError, KeyError, TypeError, InvalidName):
            return None


def started(pid: int) -> str | None:
    """When the kernel began this process; None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may hold anything; the 22nd field of all is the start.
    fields = stat[stat.rindex(")") + 2 :].split()
    if fields[0] == "Z":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{fields[19]}"


def open_process(record: Record) -> int | None:
    """A pidfd of the recorded process; None when it is gone, or its pid is another's by now."""
    try:
        pidfd = os.pidfd_open(record.pid)
    except OSError:
        return None
    # Checked after it was opened, so the descriptor cannot be another's.
    if started(record.pid) == record.started:
        return pidfd
    os.close(pidfd)
    return None
