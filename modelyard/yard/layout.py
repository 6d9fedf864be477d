"""Where a yard keeps its things."""

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from modelyard.errors import FailedPrecondition

DATA_VARIABLE = "MODELYARD_DATA"
# The kernel's limit is 107; hosts append names of their own.
_LONGEST_RUN_DIR = 60


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one yard.

    Attributes:
        data: What must last: the registry's log, artifacts, and the rooms' logs.
        run: Sockets, under a path short enough for them; the same for the same data folder, so
            that a yard that is started again finds the hosts of the last one.
    """

    data: Path
    run: Path

    @property
    def redis(self) -> Path:
        """Redis's folder."""
        return self.data / "redis"

    @property
    def events(self) -> Path:
        """The folder of the event log's Redis."""
        return self.data / "events"

    @property
    def archive(self) -> Path:
        """What was asked and answered, as Parquet."""
        return self.data / "archive"

    @property
    def payloads(self) -> Path:
        """Payloads that are too large for the event log."""
        return self.data / "payloads"

    @property
    def shadow(self) -> Path:
        """The folder of the supervisor of the hosts that only evaluations ask."""
        return self.data / "shadow"

    @property
    def shadow_run(self) -> Path:
        """That supervisor's sockets."""
        return self.run / "s"

    @property
    def artifacts(self) -> Path:
        """The registry's files by their digest."""
        return self.data / "artifacts"

    @property
    def inference(self) -> Path:
        """The supervisor's folder."""
        return self.data / "inference"

    @property
    def logs(self) -> Path:
        """One log a room."""
        return self.data / "logs"

    @property
    def lock(self) -> Path:
        """Held by the yard that runs on this data."""
        return self.data / "yard.lock"

    @property
    def redis_socket(self) -> Path:
        """Where Redis answers."""
        return self.run / "redis.sock"

    @property
    def events_socket(self) -> Path:
        """Where the event log's Redis answers."""
        return self.run / "events.sock"

    @property
    def shadow_socket(self) -> Path:
        """Where the shadow service answers."""
        return self.run / "shadow.sock"

    @property
    def archive_socket(self) -> Path:
        """Where the archive's writer answers."""
        return self.run / "archive.sock"

    @property
    def shadow_hosts_socket(self) -> Path:
        """Where the supervisor of the hosts that only evaluations ask answers."""
        return self.run / "shadow-hosts.sock"

    @property
    def registry_socket(self) -> Path:
        """Where the registry answers."""
        return self.run / "registry.sock"

    @property
    def inference_socket(self) -> Path:
        """Where the hosts' supervisor answers."""
        return self.run / "inference.sock"

    def make(self) -> None:
        """Makes the folders; raises FailedPrecondition where one cannot be made or is not ours."""
        try:
            for folder in (self.data, self.redis, self.events, self.artifacts, self.inference):
                folder.mkdir(parents=True, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
            self.run.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.run.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise FailedPrecondition(f"{error.filename}: {error.strerror}") from None
        # Below /tmp anybody could have made it first.
        for folder in (self.run.parent, self.run):
            facts = folder.lstat()
            if facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o022:
                raise FailedPrecondition(
                    f"{folder} belongs to someone else, or others may write to it"
                )


def default_data() -> Path:
    """`$MODELYARD_DATA`, else `modelyard` in `$XDG_DATA_HOME`, else `~/.local/share/modelyard`."""
    if named := os.environ.get(DATA_VARIABLE):
        return Path(named)
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "modelyard"


def layout(data: Path | None) -> Layout:
    """The folders of the yard on this data."""
    folder = (data or default_data()).expanduser().resolve()
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    return Layout(data=folder, run=_run_parent() / name)


def _run_parent() -> Path:
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and len(given) < _LONGEST_RUN_DIR - 25 and os.access(given, os.W_OK):
        return Path(given) / "modelyard"
    temporary = tempfile.gettempdir()
    base = temporary if len(temporary) < _LONGEST_RUN_DIR - 30 else "/tmp"  # noqa: S108 - see make
    return Path(base) / f"modelyard-{os.getuid()}"
