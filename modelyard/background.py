"""Work that must not be noticed: a process that runs only where nothing else wants to.

Under Linux the idle policy counts among the processes of one session alone, where the kernel groups
tasks by session (sched(7), "The autogroup feature"): sessions have equal shares whatever runs in
them. So no room, no host and no Envoy of a yard begins a session of its own. Cgroups come before
that: where background work has a container of its own, that one needs the smallest weight.
"""

import os

import structlog

_log = structlog.get_logger(__name__)


def enter() -> None:
    """Gives this process, and all that it starts, only the processor time that is left over.

    Under Linux by the idle policy, which gives way at once, on half of the processors: a task that
    waits behind another is fetched by a processor that runs out of work, and one with background
    work never does. Elsewhere by the lowest priority.
    """
    try:
        mine = sorted(os.sched_getaffinity(0))
        # The threads that libraries have made by now, too: each has a policy of its own.
        for thread in map(int, os.listdir("/proc/self/task")):
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
            os.sched_setaffinity(thread, mine[: max(len(mine) // 2, 1)])
    except (AttributeError, OSError) as error:
        _log.warning("no idle policy here: the lowest priority instead", error=str(error))
        os.nice(19)
