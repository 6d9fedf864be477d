"""One yard at a time on one data folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelyard.errors import FailedPrecondition


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds a lock file; the system lets go of it however the process ends.

    Raises:
        FailedPrecondition: Another process holds it; the text says which.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise FailedPrecondition(
                f"a yard runs on {path.parent} already, with process id {holder}", pid=holder
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
