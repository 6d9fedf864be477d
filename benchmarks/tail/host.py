"""A real host whose runs take the time that a file says: `python -m benchmarks.tail.host`.

Everything but the model is the host that a yard runs. The model answers after a base time, and
sometimes stalls; a run that nobody waits for any more ends at once, as onnxruntime's do.

    --temper FILE    {"base": s, "stall": [share, least s, most s], "fails": share}
"""

import asyncio
import gc
import json
import random
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard.errors import HostGone
from services.inference.host import __main__ as host
from services.inference.host.session import OnnxModel, Stop
from services.inference.host.settings import parse
from services.inference.host.tensors import Array

# The file is looked at this often, in seconds.
_LOOK = 0.05


@dataclass(frozen=True, slots=True)
class Temper:
    """How long runs take, in seconds, and the share of them that fails."""

    base: float
    stall: tuple[float, float, float]
    fails: float


class SleepStop(Stop):
    """Ends the sleep, too."""

    __slots__ = ("told",)

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()

    def stop(self) -> None:
        """Asks the run to end."""
        super().stop()
        self.told.set()


class Straggling:
    """A model that takes its time."""

    # A thread each, so that a stalled run holds up no other.
    may_run_long = True

    def __init__(self, model: OnnxModel, file: Path) -> None:
        self._model = model
        self._file = file
        self._temper = Temper(0.0, (0.0, 0.0, 0.0), 0.0)
        self._looked = 0.0
        self._chance = random.Random()
        self.signature = model.signature

    @staticmethod
    def new_stop() -> SleepStop:
        """A handle that ends one run."""
        return SleepStop()

    def run(
        self, feeds: dict[str, Array], outputs: Sequence[str] | None, stop: Any = None
    ) -> Sequence[Array]:
        """Runs once, after its time."""
        temper = self._now()
        if self._chance.random() < temper.fails:
            raise HostGone("this replica fails")
        seconds = temper.base
        share, least, most = temper.stall
        if self._chance.random() < share:
            seconds = self._chance.uniform(least, most)
        if stop is None:
            time.sleep(seconds)
        elif stop.told.wait(seconds):
            raise HostGone("stopped")
        return self._model.run(feeds, outputs, stop)

    def _now(self) -> Temper:
        now = time.monotonic()
        if now - self._looked > _LOOK:
            self._looked = now
            held = json.loads(self._file.read_text())
            self._temper = Temper(held["base"], tuple(held["stall"]), held["fails"])
        return self._temper


def main(argv: Sequence[str]) -> None:
    """Serves as a host does."""
    at = argv.index("--temper")
    settings = parse([*argv[:at], *argv[at + 2 :]])
    threads = 1
    model, usual_ns = host.prepare(settings, threads)
    gc.collect()
    gc.freeze()
    straggling: Any = Straggling(model, Path(argv[at + 1]))
    asyncio.run(host.serve(settings, straggling, usual_ns, threads))


if __name__ == "__main__":
    main(sys.argv[1:])
