"""The tour, in front of your eyes.

Register, infer, shadow, promote, survive a kill, hedge a frozen host, fall back, roll back.

Calls flow from the first hand-over to the last. The tour fails if one of them does.
"""

import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from math import ceil
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from modelyard.cli import progress
from modelyard.cli.changes import described
from modelyard.cli.plan import gate
from modelyard.cli.report import bar
from modelyard.cli.route_yaml import parse
from modelyard.client import Client
from modelyard.demo import models, private
from modelyard.demo.flow import Count, Flow
from modelyard.errors import ModelyardError, VersionNotServing
from modelyard.names import LIVE
from modelyard.registry.v1 import host_pb2
from modelyard.shadow.v1 import evaluation_pb2, report_pb2

_MODEL = "digits"
_REPLICAS = 2
# Answers to see before and after each event.
_CALLS = 150
_PATIENCE = 60.0
# Answers by hedges to see, and how long to wait for such, in seconds: a supervisor ends a host
# that does not answer its checks, and then there is nothing to see any more.
_HEDGES, _FROZEN = 5, 6.0
# A yard that has just registered a version has all its hosts after so many seconds.
_SETTLING = 20.0
# What a candidate must hold: by the truth at most 1 % worse, and as good as never failing.
_GATES = ("loss:label=0.01", "errors=0.01")
_FIRST_LOOK = 100
# The bar of a version, in characters, and how its parts are drawn.
_WIDTH = 40
_COLORS = {
    "primary": "green",
    "retry": "yellow",
    "hedge": "cyan",
    "fallback": "magenta",
    "default": "red",
}


def run(*, keep: bool, address: str | None) -> int:
    """Runs the tour and returns the exit code: 0 when no call failed.

    Args:
        keep: Leaves the tour's own yard up on the default ports.
        address: A yard to show it on; one of its own when None.
    """
    console = Console(highlight=False)
    if address is not None:
        return _Tour(console, address).run()
    console.print("[bold]Modelyard[/]: starting a yard (Redis, registry, supervisor, gateway) …")
    began = time.monotonic()
    with private.yard(keep, _REPLICAS) as (own, pid):
        console.print(f"  it serves at [bold]{own}[/] after {time.monotonic() - began:.1f} s")
        code = _Tour(console, own).run()
        if keep:
            console.print(f"\nThe yard stays up at [bold]{own}[/]. Look around:")
            console.print("  modelyard versions digits        modelyard top")
            console.print(f"  kill {pid}    ends it")
    return code


class _Tour:
    def __init__(self, console: Console, address: str) -> None:
        self._console = console
        self._address = address
        self._scene = 0
        self._count = Count()
        # Where nobody watches, each scene's last line says as much.
        self._live = Live(
            console=console, get_renderable=self._counter, refresh_per_second=8, transient=True
        )

    def run(self) -> int:
        with Client(self._address) as client, tempfile.TemporaryDirectory() as folder:
            self._client = client
            self._title("Two versions of a digits classifier, trained now")
            digits = models.train(Path(folder))
            for name, score in digits.accuracy.items():
                self._say(f"{name}: {score:.1%} of unseen digits right")
            (first_name, first), (second_name, second) = digits.versions.items()

            self._title("Register, and call")
            one = self._register(_MODEL, first, label=LIVE)
            self._show_image()
            self._show_digit(digits)

            self._flow = Flow(client, _MODEL, digits.images, digits.digits, self._count)
            with self._flow.running(), self._live if self._console.is_terminal else nullcontext():
                self._title(f"Try {second_name} in the shadow, while calls flow")
                self._flow.wait_for(one, _CALLS)
                two = self._register(_MODEL, second, golden=digits.golden, wait=False)
                verdict = self._evaluate(two)

                self._title(f"Promote {second_name}, while calls flow")
                client.label(_MODEL, LIVE, two, note=verdict)
                self._flow.wait_for(two, _CALLS)
                self._tell_count("live points at it")

                self._title("Kill a host (SIGKILL), while calls flow")
                self._kill_one(two)

                self._title("Freeze a host (SIGSTOP), while calls flow: hedge")
                self._freeze_one(two)

                self._title(f"Freeze all hosts of {second_name}: fall back to {first_name}")
                self._freeze_all(two)

                self._title(f"Roll back to {first_name}, while calls flow")
                client.rollback(_MODEL, note="only to show it")
                self._flow.wait_for(one, _CALLS)
                self._tell_count("live points at the version before")
            self._history()
            return self._sum_up()

    def _register(
        self,
        name: str,
        file: Path,
        *,
        label: str | None = None,
        golden: Path | None = None,
        wait: bool = True,
    ) -> int:
        # One thing at a time may draw on the terminal.
        quiet = self._live.is_started
        with nullcontext() if quiet else progress.shown(f"{name}, {file.name}") as listener:
            done = self._client.register(
                name, file, label, golden, {"from": "the tour"}, wait=wait, progress=listener
            )
        about = f"{file.stat().st_size / 1024:.0f} KiB, {done.digest[:19]}…"
        self._say(f"registered [bold]{done.name}[/] ({about})")
        return done.name.number

    def _show_digit(self, digits: models.Digits) -> None:
        answer = self._client.infer(_MODEL, {"X": digits.images[:1]})
        best = float(np.max(answer["probabilities"]))
        self._say(
            f"an image of a {digits.digits[0]} is a {answer['label'][0]} ({best:.0%} sure),"
            f" says {answer.served_by}"
        )

    def _show_image(self) -> None:
        image = models.image()
        self._register(image.name, image.file, label=LIVE)
        answer = self._client.infer(image.name, image.inputs)
        output = answer[image.output]
        if not np.allclose(output, image.expected, rtol=1e-3, atol=1e-5):
            raise ModelyardError(f"{image.name} does not answer what ships with it")
        self._say(
            f"{image.name} of the onnx package, output {list(output.shape)}:"
            " equal to the output that ships with it"
        )

    def _evaluate(self, version: int) -> str:
        """Replays the calls on a version that nobody depends on, until there is a verdict."""
        plan = evaluation_pb2.Plan(sample=1.0, baseline_sample=0.1, gates=map(gate, _GATES))
        note = "before anyone depends on it"
        evaluation = self._client.start_evaluation(_MODEL, [version], plan=plan, note=note)
        self._say(f"calls are replayed on a host of its own; it must hold {', '.join(_GATES)}")
        told, last = 0, report_pb2.Report()
        with self._flow.telling_truths():
            for last in self._client.reports(evaluation.name):
                loss = last.candidates[0].gates[0] if last.candidates[0].gates else None
                if loss is not None and loss.events >= max(_FIRST_LOOK, 2 * told):
                    told = loss.events
                    self._tell_gate(loss)
        (candidate,) = last.candidates
        if candidate.verdict != report_pb2.VERDICT_PROMOTE:
            raise ModelyardError(f"{evaluation.name}: {'; '.join(candidate.reasons)}")
        self._tell_gate(candidate.gates[0])
        counts = last.counts
        self._say(
            f"verdict: [bold green]PROMOTE[/], after {counts.replayed} replays and"
            f" {counts.labelled} truths; wrong with a probability of at most {plan.alpha or 0.05:g}"
        )
        return f"{evaluation.name.rpartition('/')[2]}: {candidate.reasons[0]}"

    def _tell_gate(self, loss: report_pb2.GateReport) -> None:
        lower, upper = loss.interval.lower, loss.interval.upper
        self._say(
            f"after {loss.events:>5} truths it is worse by {lower:+.3f} to {upper:+.3f}"
            f" than what is live  {bar(loss)}"
        )

    def _kill_one(self, version: int) -> None:
        name = f"models/{_MODEL}/versions/{version}"
        if not self._has_two(name):
            return
        serving = self._serving(name)
        victim = self._here(name)[0]
        os.kill(victim.pid, signal.SIGKILL)
        self._say(f"killed process {victim.pid}, one of {len(serving)} hosts of {name}")
        self._flow.wait_for(None, _CALLS)
        self._until(
            f"a host in place of process {victim.pid}",
            lambda: sum(host.pid != victim.pid for host in self._serving(name)) >= len(serving),
        )
        self._flow.wait_for(None, _CALLS)
        self._tell_count("a new host took its place")

    def _freeze_one(self, version: int) -> None:
        """The worst that can befall a call: its host holds the connection, and is silent."""
        name = f"models/{_MODEL}/versions/{version}"
        if not self._has_two(name):
            return
        here = self._here(name)
        self._route("hedge: {max_extra_load: 0.1}")
        self._flow.wait_for(version, _CALLS)
        with self._frozen(here[:1]):
            self._say(f"stopped process {here[0].pid}: it holds its calls and answers none")
            self._flow.wait_for_attempt("hedge", _HEDGES, _FROZEN)
            self._flow.wait_for(version, _CALLS)
        self._tell_count("the other host answered what it held")
        self._until("two hosts again", lambda: len(self._serving(name)) >= _REPLICAS)

    def _freeze_all(self, version: int) -> None:
        name = f"models/{_MODEL}/versions/{version}"
        if not self._has_two(name):
            return
        here = self._here(name)
        self._route("fallback: [{label: previous, after: 50ms}]")
        # Calls that had begun by then go by the route that they found.
        self._flow.wait_for(version, _CALLS)
        with self._frozen(here):
            self._say(
                f"stopped all {len(here)} hosts of {name}; its circuit opens after some calls"
            )
            self._flow.wait_for_attempt("fallback", _CALLS, _FROZEN)
        self._tell_count("the version before answered meanwhile")
        self._until("two hosts again", lambda: len(self._serving(name)) >= _REPLICAS)
        self._client.remove_route(_MODEL)

    @contextmanager
    def _frozen(self, hosts: list[host_pb2.Host]) -> Iterator[None]:
        """Hosts that do nothing while the block runs, or until their supervisor ends them."""
        for host in hosts:
            os.kill(host.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for host in hosts:
                with suppress(ProcessLookupError):
                    os.kill(host.pid, signal.SIGCONT)

    def _route(self, text: str) -> None:
        self._client.replace_route(_MODEL, parse(text), note="only to show it")
        self._say(f"route: [bold]{text}[/]")

    def _has_two(self, version: str) -> bool:
        """Waits for two hosts of a version on this machine; says so where there are none."""
        until = time.monotonic() + _SETTLING
        while len(self._here(version)) < _REPLICAS:
            if time.monotonic() > until:
                self._say("skipped: this takes two hosts of the version, on this machine")
                return False
            time.sleep(0.1)
        return True

    def _here(self, version: str) -> list[host_pb2.Host]:
        machine = socket.gethostname()
        return [h for h in self._serving(version) if h.pid and h.machine == machine]

    def _serving(self, version: str) -> list[host_pb2.Host]:
        return [
            host
            for host in self._client.hosts(_MODEL)
            if host.version == version and host.state == host_pb2.Host.STATE_SERVING
        ]

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise VersionNotServing(f"no {what} after {_PATIENCE:g} s")
            time.sleep(0.1)

    def _history(self) -> None:
        self._title("What changed, who did it, and why")
        for change in reversed(self._client.history(_MODEL, limit=8)):
            note = f"  ({change.note})" if change.note else ""
            self._say(f"{change.revision:>4}  {described(change)}{note}")

    def _sum_up(self) -> int:
        count = self._count
        self._console.print()
        for failure, times in count.failures.most_common(5):
            self._console.print(f"  [red]{times} x {failure}[/]")
        color = "red" if count.failed else "green"
        total = count.answers.total() + count.failed
        self._console.print(
            f"[bold {color}]{total} calls while all this happened; failed: {count.failed}[/]"
        )
        return 1 if count.failed else 0

    def _counter(self) -> Table:
        count = self._count
        table = Table("answered by", "", "calls", "right", box=None, header_style="dim")
        most = max(count.answers.values(), default=1)
        for version, calls in sorted(count.answers.items()):
            right = f"{count.right[version] / calls:.1%}"
            bar = Text()
            for kind, color in _COLORS.items():
                part = count.kinds[version, kind]
                bar.append("█" * ceil(_WIDTH * part / most), style=color)
            table.add_row(f"  {_MODEL} version {version}", bar, f"{calls:>7}", right)
        style = "bold red" if count.failed else "bold green"
        legend = Text(" ").join(Text(kind, style=color) for kind, color in _COLORS.items())
        table.add_row("  failed", legend, Text(f"{count.failed:>7}", style=style), "")
        return table

    def _tell_count(self, what: str) -> None:
        self._say(f"{what}: {self._count.line()}")

    def _title(self, text: str) -> None:
        self._scene += 1
        self._console.print(f"\n[bold cyan]{self._scene}. {text}[/]")

    def _say(self, text: str) -> None:
        self._console.print(f"  {text}", soft_wrap=True)
