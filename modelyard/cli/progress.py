"""How far an upload and a load are, on standard error."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bars

from modelyard.cli.output import errors
from modelyard.client import Progress
from modelyard.client.steps import OnProgress


@contextmanager
def shown(what: str) -> Iterator[OnProgress]:
    """Gives a listener that draws bars on a terminal and writes plain lines elsewhere."""
    if not errors.is_terminal:
        yield _Lines(what)
        return
    with Bars(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}"),
        console=errors,
        transient=True,
    ) as bars:
        yield _Bar(what, bars)


class _Lines:
    def __init__(self, what: str) -> None:
        self._what = what
        self._said = ""

    def __call__(self, progress: Progress) -> None:
        if progress.stage == "upload" and progress.done < progress.total:
            return
        line = f"{self._what}: {progress.stage}"
        if progress.stage == "upload":
            line += f" {progress.total} bytes"
        if line != self._said:
            errors.print(line, highlight=False)
            self._said = line


class _Bar:
    def __init__(self, what: str, bars: Bars) -> None:
        self._what = what
        self._bars = bars
        self._task = bars.add_task(what, total=None, detail="")

    def __call__(self, progress: Progress) -> None:
        known = progress.total > 0
        self._bars.update(
            self._task,
            description=f"{self._what}: {progress.stage}",
            completed=progress.done,
            total=progress.total if known else None,
            detail=f"{progress.done / 1e6:.1f} of {progress.total / 1e6:.1f} MB" if known else "",
        )
