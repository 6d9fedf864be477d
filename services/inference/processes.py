"""Host processes: begun in a session of their own, or found again after a restart.

A host outlives its supervisor, so nothing between the two is a pipe: the host says its stages into
a file, its end is told by a pidfd, and a record in the run folder names it to the next supervisor.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from modelyard.names import VersionName
from services.inference.host.settings import LONGEST_PATH
from services.inference.records import Record, Records, open_process, started

# While a host loads, its stages are read this often, in seconds.
_READ_EVERY = 0.02
_LAST_STAGES = frozenset({"serving", "failed"})
_TAIL = 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """What a host process is to serve.

    Attributes:
        id: The host.
        version: What it serves.
        digest: Of the artifact; the host verifies it.
        artifact: The model's file, or the folder with it and its external data.
        golden: The golden samples' file.
        restarts: How often the host was started again.
    """

    id: str
    version: VersionName
    digest: str
    artifact: Path
    golden: Path | None
    restarts: int


class HostProcess:
    """A living process, or one that ended a moment ago."""

    def __init__(
        self, record: Record, pidfd: int, child: "subprocess.Popen[bytes] | None" = None
    ) -> None:
        self.record = record
        self._pidfd = pidfd
        self._child = child
        self._gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._ended)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.record.pid

    def terminate(self) -> None:
        """Asks it to end its calls and itself."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it."""
        self._signal(signal.SIGKILL)

    async def wait(self) -> int | None:
        """Its exit code, as in `subprocess`; None when it was another supervisor's child."""
        await self._gone.wait()
        # It has ended, so this only collects the code.
        return None if self._child is None else self._child.wait()

    async def stages(self) -> AsyncIterator[dict[str, str]]:
        """What it says of itself, up to `serving`, `failed` or its end."""
        said = 0
        while True:
            gone = self._gone.is_set()
            lines = read_stages(self.record.stages)
            for stage in lines[said:]:
                yield stage
                if stage.get("stage") in _LAST_STAGES:
                    return
            said = len(lines)
            if gone:
                return
            await asyncio.sleep(_READ_EVERY)

    def close(self) -> None:
        """Lets go of it; a living process goes on."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._child is not None and self._child.returncode is None:
            # Left running on purpose: keep `subprocess` from warning about it.
            self._child.returncode = 0

    def last_words(self) -> str:
        """The last line of its standard error."""
        try:
            with self.record.log.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - _TAIL))
                lines = log.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")[:500]

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._gone.set()

    def _signal(self, number: signal.Signals) -> None:
        if not self._gone.is_set() and self._pidfd >= 0:
            # One that ended this moment: the reader will tell.
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)


class Launcher:
    """Begins host processes and finds them again.

    Args:
        run: A folder with a short path: it holds records, stages and sockets.
        logs: Where the hosts' standard errors go.
        listen: `unix`, or the address of an interface, on which each host takes a free port.
        arguments: Flags that every host is given.
    """

    def __init__(
        self, *, run: Path, logs: Path, listen: str = "unix", arguments: Sequence[str] = ()
    ) -> None:
        self._run = run
        self._hosts = run / "hosts"
        self._hosts.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self._listen = listen
        self._arguments = tuple(arguments)
        self.records = Records(self._hosts)

    def start(self, plan: Plan) -> HostProcess:
        """Begins a host; raises OSError when the machine has no room for a process."""
        stages = self._hosts / f"{plan.id}.stages"
        stages.unlink(missing_ok=True)
        # The model's name may be long, a file's may not.
        log = self._logs / f"{plan.version.model[:80]}-{plan.version.number}-{plan.id}.log"
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        # Appended to, so that it can be cut short while the host writes.
        out, err = os.open(stages, append, 0o600), os.open(log, append, 0o600)
        try:
            child = subprocess.Popen(
                self._command(plan),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                # Signals to the supervisor's group are not for hosts, which outlive it. No session
                # of its own: see `modelyard.background`.
                process_group=0,
            )
        finally:
            os.close(out)
            os.close(err)
        # Not collected yet, so the pid is its own even when it has ended already.
        pidfd = os.pidfd_open(child.pid)
        record = Record(
            id=plan.id,
            pid=child.pid,
            started=started(child.pid) or "",
            version=plan.version,
            digest=plan.digest,
            restarts=plan.restarts,
            stages=stages,
            log=log,
        )
        self.records.write(record)
        return HostProcess(record, pidfd, child)

    def find(self) -> list[HostProcess]:
        """The living processes of the supervisor before; drops what the dead ones left."""
        found = []
        for record in self.records:
            pidfd = open_process(record)
            if pidfd is None:
                self.clear(record.id)
            else:
                found.append(HostProcess(record, pidfd))
        return found

    def clear(self, id: str) -> None:
        """Drops what a host that ended left in the run folder."""
        self.records.remove(id)
        (self._hosts / f"{id}.stages").unlink(missing_ok=True)
        for socket in self._run.glob(f"{id}.*.sock"):
            socket.unlink(missing_ok=True)

    def _command(self, plan: Plan) -> list[str]:
        # A new address each time: nobody takes the new process for the old one.
        listen = (
            f"unix:{self._run / plan.id}.{plan.restarts}.sock"
            if self._listen == "unix"
            else f"{self._listen}:0"
        )
        command = [sys.executable, "-m", "services.inference.host"]
        command += ["--model", plan.version.model, "--version", str(plan.version.number)]
        command += ["--artifact", str(plan.artifact), "--digest", plan.digest]
        command += ["--listen", listen]
        # The gateway may be on this machine, wherever else the host listens.
        frames = f"unix:{self._run / plan.id}.{plan.restarts}.f.sock"
        if len(frames.removeprefix("unix:").encode()) <= LONGEST_PATH:
            command += ["--frames", frames]
        if plan.golden is not None:
            command += ["--golden", str(plan.golden)]
        return [*command, *self._arguments]


def read_stages(path: Path) -> list[dict[str, str]]:
    """The stages in a host's file so far; a line that is not whole yet is left out."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    stages = []
    for line in text.split("\n")[:-1]:
        try:
            stage = json.loads(line)
        except ValueError:
            continue  # Some library printed to stdout.
        if isinstance(stage, dict):
            stages.append({str(key): str(value) for key, value in stage.items()})
    return stages


def describe_exit(code: int | None, last_words: str) -> str:
    """Why a host that gave no reason ended, in words."""
    if code is None:
        how = "ended by itself"
    elif code < 0:
        # Numbers between the named ones exist: real-time signals.
        try:
            how = f"killed by {signal.Signals(-code).name}"
        except ValueError:
            how = f"killed by signal {-code}"
        return how
    elif code == 0:
        return "ended without being asked by its supervisor"
    else:
        how = f"exit code {code}"
    return f"{how}: {last_words}" if last_words else how
