"""How many processors this process may use: its affinity, and its cgroup's quota.

A container sees the machine's processors but is stopped when it uses more than its quota,
so threads are counted from what is allowed, not from what is there.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available(root: Path = Path("/")) -> int:
    """The number of processors, at least 1; `root` is where proc and sys are mounted."""
    cpus = len(os.sched_getaffinity(0))
    quota = cgroup_quota(root)
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def cgroup_quota(root: Path) -> float | None:
    """The tightest quota over the cgroup and those above it, in processors; None for none.

    Sources: cgroup v2 `cpu.max`; cgroup v1 `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    quotas = [
        quota
        for line in lines
        for folder in _folders(root / "sys/fs/cgroup", line)
        if (quota := _v2(folder) or _v1(folder)) is not None
    ]
    return min(quotas, default=None)


def _folders(mount: Path, line: str) -> Iterator[Path]:
    _, controllers, path = line.split(":", 2)
    if not controllers:
        top = mount
    elif "cpu" in controllers.split(","):
        top = next((m for c in (controllers, "cpu") if (m := mount / c).is_dir()), mount)
    else:
        return
    here = PurePosixPath(path.lstrip("/"))
    for part in (here, *here.parents):
        yield top / part


def _v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
