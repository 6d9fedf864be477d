"""Starts a program that the kernel ends when its parent dies, however that dies.

Run as a file, not imported: `python tether.py PARENT PROGRAM ARGUMENT...`. It becomes the program,
so the process id stays the same. Linux only; elsewhere it starts the program without the tether.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ties this process to its parent and becomes the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # It died before the tether held.
            sys.exit(1)
    os.execv(program[0], program)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
