"""Turns measurements into tables: ratios first, then what they were made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.load import Sample
from benchmarks.targets import Target

# Who calls, and how: in a closed loop, or at half of what the target was seen to bear.
PYTHON, CPP = "grpc.aio", "C++"
HALF = {PYTHON: "grpc.aio, half load", CPP: "C++, half load"}


@dataclass(frozen=True, slots=True)
class Row:
    """A target's rounds, by one client, at one number of calls in flight."""

    target: Target
    how: str
    in_flight: int
    rounds: tuple[Sample, ...]

    @property
    def p50(self) -> float:
        """The median round's p50, in microseconds."""
        return median(r.p50 for r in self.rounds)

    @property
    def p99(self) -> float:
        """The median round's p99, in microseconds."""
        return median(r.p99 for r in self.rounds)

    @property
    def throughput(self) -> float:
        """The median round's calls a second."""
        return median(r.throughput for r in self.rounds)

    @property
    def errors(self) -> int:
        """Failed calls of all rounds."""
        return sum(r.errors for r in self.rounds)

    @property
    def cpu(self) -> dict[str, float]:
        """Of each process, the median round's processor time a call, in microseconds."""
        return {part: median(r.cpu[part] for r in self.rounds) for part in self.rounds[0].cpu}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def machine(facts: dict[str, str]) -> str:
    """The machine in one paragraph."""
    return "Machine: " + ", ".join(f"{name} {value}" for name, value in facts.items()) + ".\n"


class Ratios:
    """Ratios of one run and client, each the median over rounds of that round's ratio."""

    def __init__(self, rows: Sequence[Row], how: str) -> None:
        self._rows = {
            (r.target.key, r.in_flight): r.rounds for r in rows if r.rounds and r.how == how
        }

    def p50(self, one: str, other: str, in_flight: int) -> float | None:
        """Latency of `one` over that of `other`."""
        return self._paired(one, other, in_flight, lambda a, b: a.p50 / b.p50)

    def throughput(self, one: str, other: str, in_flight: int) -> float | None:
        """Calls a second of `one` over those of `other`."""
        return self._paired(
            one, other, in_flight, lambda a, b: a.throughput / max(b.throughput, 1e-9)
        )

    def added(self, one: str, other: str, base: str, in_flight: int) -> float | None:
        """What `one` adds to the latency of `base`, over what `other` adds to it."""
        keys = [(key, in_flight) for key in (one, other, base)]
        if any(key not in self._rows for key in keys):
            return None
        rounds = zip(*(self._rows[key] for key in keys), strict=True)
        found: float = median((a.p50 - c.p50) / max(b.p50 - c.p50, 1e-9) for a, b, c in rounds)
        return found

    def _paired(
        self, one: str, other: str, in_flight: int, ratio: Callable[[Sample, Sample], float]
    ) -> float | None:
        a, b = self._rows.get((one, in_flight)), self._rows.get((other, in_flight))
        if not a or not b:
            return None
        return median(ratio(x, y) for x, y in zip(a, b, strict=True))


def ratios(rows: Sequence[Row]) -> str:
    """The ratios that we aim at."""
    of = Ratios(rows, PYTHON)
    lines = [
        ("host / bare grpc.aio: p50, 1 in flight", of.p50("host", "bare", 1), "at most 1.10"),
        (
            "bare grpc.aio / host: calls a second, 16 in flight",
            of.throughput("bare", "host", 16),
            "at most 1.10",
        ),
        (
            "gateway's added p50 / bare proxy's added p50, 1 in flight",
            of.added("gateway", "proxy", "host", 1),
            "at most 1.15",
        ),
        (
            "the same, gRPC between gateway and host",
            of.added("gateway-grpc", "proxy", "host", 1),
            "",
        ),
        (
            "gateway / bare proxy: calls a second, 16 in flight",
            of.throughput("gateway", "proxy", 16),
            "",
        ),
        (
            "the same, gRPC between gateway and host",
            of.throughput("gateway-grpc", "proxy", 16),
            "",
        ),
        (
            "frames / gRPC between gateway and host: added p50, 1 in flight",
            of.added("gateway", "gateway-grpc", "host", 1),
            "",
        ),
        (
            "frames / gRPC between gateway and host: calls a second, 16 in flight",
            of.throughput("gateway", "gateway-grpc", 16),
            "",
        ),
    ]
    head = ("ratio", "measured", "aim")
    own = table(head, [(name, _ratio(value), aim) for name, value, aim in lines])
    return "\n".join((own, _beside(rows, PYTHON), _beside(rows, CPP)))


def _beside(rows: Sequence[Row], how: str) -> str:
    """Our gateway and host beside each peer, by one client."""
    of = Ratios(rows, how)
    fronts = {
        "gateway": "as they come",
        "gateway-grpcio": "behind grpc.aio",
        "gateway-envoy": "inside Envoy",
    }
    peers = {
        "bare": ("bare grpc.aio", "at most 1.10", "at least 2"),
        "envoy-bare": ("Envoy before bare grpc.aio", "", ""),
        "envoy": ("Envoy before the host", "", ""),
        "mlserver": ("MLServer", "", ""),
        "kserve": ("KServe", "", "at least 3"),
    }
    head = (
        f"{how} client: gateway and host / peer",
        "p50, 1 in flight",
        "aim",
        "calls/s, 16",
        "aim",
    )
    return table(
        (*head, "calls/s, 64"),
        [
            (
                f"{who} / {title}",
                _ratio(of.p50(front, peer, 1)),
                soon if front == "gateway" else "",
                _ratio(of.throughput(front, peer, 16)),
                many if front == "gateway" else "",
                _ratio(of.throughput(front, peer, 64)),
            )
            for front, who in fronts.items()
            for peer, (title, soon, many) in peers.items()
            if of.p50(front, peer, 1) is not None or how == PYTHON
        ],
    )


def _ratio(value: float | None) -> str:
    return "absent" if value is None else f"{value:.2f}"


def calls(rows: Sequence[Row]) -> str:
    """The tables of targets: closed loops, then half load."""
    closed = table(
        ("client", "in flight", "target", "p50 us", "p99 us", "calls/s", "errors", "CPU us a call"),
        [
            (row.how, str(row.in_flight), row.target.title, *_figures(row))
            for row in rows
            if row.how in HALF and (row.rounds or row.how == PYTHON)
        ],
    )
    half = table(
        (
            "client",
            "at half of its most (16 in flight)",
            "calls/s",
            "p50 us",
            "p99 us",
            "p99 / p50",
        ),
        [
            (
                client,
                row.target.title,
                f"{row.throughput:,.0f}",
                f"{row.p50:,.0f}",
                f"{row.p99:,.0f}",
                f"{median(r.p99 / max(r.p50, 1e-9) for r in row.rounds):.2f}",
            )
            for client, how in HALF.items()
            for row in rows
            if row.how == how and row.rounds
        ],
    )
    return f"{closed}\n{half}"


def _figures(row: Row) -> tuple[str, ...]:
    if not row.rounds:
        return (row.target.absent.splitlines()[0][:80], "", "", "", "")
    spent = ", ".join(f"{part} {time:.0f}" for part, time in row.cpu.items())
    rest = (f"{row.throughput:,.0f}", str(row.errors), spent)
    return (f"{row.p50:,.0f}", f"{row.p99:,.0f}", *rest)
