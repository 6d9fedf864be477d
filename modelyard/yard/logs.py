"""The rooms' logs, kept from growing without end."""

import shutil
from pathlib import Path

LIMIT = 16 << 20


def bound(log: Path, limit: int = LIMIT) -> None:
    """Sets a log that is over the limit (in bytes) aside as `.1` and begins it anew.

    The writers keep their open file, which they append to, so it is copied and cut, not renamed.
    """
    try:
        if log.stat().st_size <= limit:
            return
    except FileNotFoundError:
        return
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    with log.open("r+b") as file:
        file.truncate(0)


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, indented."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return "  (nothing)"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (nothing)"
