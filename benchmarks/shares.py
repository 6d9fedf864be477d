"""Holds processes to a share of a processor, by Linux's control groups (needs root)."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

# Of the first version of cgroups, where its controller of processors is mounted; else the second.
_FIRST, _SECOND = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
# A process that has had its share waits for the next of these; in microseconds.
_PERIOD = 10_000


@contextmanager
def held(pids: Sequence[int], share: float) -> Iterator[None]:
    """Holds each process, with its threads, to `share` of a processor while the block runs.

    Raises:
        OSError: Groups cannot be made here.
    """
    quota = round(share * _PERIOD)
    first = (_FIRST / "cpu.cfs_quota_us").exists() or (_FIRST / "cpu.shares").exists()
    root = _FIRST if first else _SECOND
    with ExitStack() as ends:
        for pid in pids:
            group = root / f"modelyard-benchmark-{pid}"
            group.mkdir()
            ends.callback(group.rmdir)
            if first:
                (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
                (group / "cpu.cfs_quota_us").write_text(str(quota))
            else:
                (group / "cpu.max").write_text(f"{quota} {_PERIOD}")
            (group / "cgroup.procs").write_text(str(pid))
            ends.callback(_back, root, pid)
        yield


def _back(root: Path, pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        (root / "cgroup.procs").write_text(str(pid))
