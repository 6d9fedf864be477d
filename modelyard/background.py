"""Work that must not be noticed: a process that runs only where nothing else wants to."""

import os

import structlog

_log = structlog.get_logger(__name__)


def enter() -> None:
    """Gives this process, and all that it starts, only the processor time that is left over.

    Under Linux by the idle policy (sched(7)), which gives way at once; elsewhere by the lowest
    priority.
    """
    try:
        # The threads that libraries have made by now, too: each has a policy of its own.
        for thread in os.listdir("/proc/self/task"):
            os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError) as error:
        _log.warning("no idle policy here: the lowest priority instead", error=str(error))
        os.nice(19)
