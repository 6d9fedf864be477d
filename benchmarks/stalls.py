"""When the machine itself stood still: a processor was kept from the most urgent of its tasks.

On each processor a thread of real-time priority wakes every millisecond; nothing that a yard does
goes before it. Where it wakes late, a hypervisor had taken the processor away, or the kernel did
not let go of it. A call that met such a stall says nothing of what else ran beside it. What keeps
a processor busy or slow without taking it away is no stall.
"""

import bisect
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

_EVERY = 0.001
# Waking takes some 0.1 ms by itself.
_LATE = 0.0003
_PRIORITY = 50

Stall = tuple[float, float]


def met(stalls: Sequence[Stall], began: float, ended: float) -> bool:
    """Whether any of the stalls, in order of their beginnings and not nested, overlaps a time."""
    after = bisect.bisect_left(stalls, (ended,))
    return after > 0 and stalls[after - 1][1] > began


def joined(stalls: Sequence[Stall]) -> list[Stall]:
    """The times in which any of the processors stood still."""
    whole: list[Stall] = []
    for began, ended in sorted(stalls):
        if whole and began <= whole[-1][1]:
            whole[-1] = (whole[-1][0], max(ended, whole[-1][1]))
        else:
            whole.append((began, ended))
    return whole


@dataclass(slots=True)
class Watched:
    """What was seen of the machine, once the watch is over.

    Attributes:
        stalls: On the clock of `time.perf_counter`, in seconds; none overlap.
    """

    stalls: list[Stall] = field(default_factory=list)


@contextmanager
def watch() -> Iterator[Watched]:
    """Watches every processor while the block runs.

    Raises:
        PermissionError: This user may not ask for real-time priority.
    """
    watched = Watched()
    code = (sys.executable, "-m", __name__)
    watchers = [
        subprocess.Popen([*code, str(cpu)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for cpu in sorted(os.sched_getaffinity(0))
    ]
    try:
        for watcher in watchers:
            assert watcher.stdout is not None
            if not watcher.stdout.readline():
                raise PermissionError("no real-time priority for whom watches the machine")
        yield watched
    finally:
        told = [watcher.communicate()[0] for watcher in watchers]
    watched.stalls = joined([(began, ended) for seen in told for began, ended in json.loads(seen)])


def main() -> None:
    """Watches one processor until standard input ends."""
    os.sched_setaffinity(0, {int(sys.argv[1])})
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    print("watching", flush=True)
    gc.disable()
    stalls: list[Stall] = []
    while not over.is_set():
        due = time.perf_counter() + _EVERY
        # How late this returns is what is measured.
        time.sleep(_EVERY)
        if (now := time.perf_counter()) - due > _LATE:
            stalls.append((due, now))
    print(json.dumps(stalls), flush=True)


if __name__ == "__main__":
    main()
