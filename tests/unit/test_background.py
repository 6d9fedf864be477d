"""A background process: every thread of it gives way, whenever it was made."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, threading
from modelyard import background

def thread():
    made = threading.Event()
    threading.Thread(target=lambda: (made.set(), threading.Event().wait()), daemon=True).start()
    made.wait()

thread()
background.enter()
thread()
print(*(os.sched_getscheduler(int(t)) for t in os.listdir("/proc/self/task")))
print(*(len(os.sched_getaffinity(int(t))) for t in os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="no idle policy here")
def test_threads_made_before_give_way_too():
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    policies, cores = ([int(word) for word in line.split()] for line in told.stdout.splitlines())
    assert len(policies) >= 3
    assert set(policies) == {os.SCHED_IDLE}
    assert set(cores) == {max(len(os.sched_getaffinity(0)) // 2, 1)}
