"""Keeps the hosts' log files small and few."""

import os
from pathlib import Path


def trim(folder: Path, *, most_bytes: int = 4 << 20, most_files: int = 200) -> None:
    """Cuts files that grew too long and removes the oldest of too many.

    The end of a long file stays beside it as `.1`. Its writer appends, so it goes on at the start.

    Args:
        folder: The folder with the `*.log` files.
        most_bytes: How long a file may grow.
        most_files: How many files stay.
    """
    for path in folder.glob("*.log"):
        if path.stat().st_size <= most_bytes:
            continue
        with path.open("r+b") as log:
            log.seek(-(most_bytes // 2), os.SEEK_END)
            path.with_suffix(".log.1").write_bytes(log.read())
            log.truncate(0)
    ranked = sorted(folder.glob("*.log*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in ranked[most_files:]:
        path.unlink(missing_ok=True)
