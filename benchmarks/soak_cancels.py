"""Calls that their callers give up, a million of them (`python -m benchmarks.soak_cancels`).

Each call is begun, waits some milliseconds at a host that takes longer, and is reset by its caller,
as every gRPC client does it: RST_STREAM, CANCEL. Resident memory of gateway, Envoy and hosts must
stay flat, and nothing may be left: no attempt at the gateway, no run at a host. Every caller waits
for one answer in 25, so that no more is begun than is answered. Results go to
benchmarks/results/soak-cancels-FRONT.{md,json}.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks import machine, report
from benchmarks.compare import save
from benchmarks.fuzz import http2
from benchmarks.fuzz.floods import call
from benchmarks.fuzz.requests import Request, envelope, headers
from benchmarks.load import METHOD
from benchmarks.soak_races import metric, rss
from benchmarks.tail.stage import MODEL, Stage, Temper, stage

CONNECTIONS, IN_FLIGHT = 4, 48
# A run takes so long, and a caller waits so long, in seconds.
BASE, PATIENCE = 0.05, 0.01
# Of so many calls the last is waited for.
TURN = 25
_CANCEL = (8).to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Row:
    """One look: what was given up so far, and what everything weighs, in MiB."""

    given_up: int
    gateway: float
    envoy: float
    hosts: float
    cancelled: float
    stopped: float


class Caller(asyncio.Protocol):
    """One connection of a caller who gives up; ends where the gateway ends it."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0
        self.lost = asyncio.get_running_loop().create_future()
        self._reader = http2.Reader()
        self._stream = 1
        self._waiting: dict[int, asyncio.Future[bool]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets, with room for every answer."""
        assert isinstance(transport, asyncio.Transport), "of a stream"
        self._transport = transport
        update = http2.frame(http2.WINDOW_UPDATE, payload=((1 << 31) - 70_000).to_bytes(4, "big"))
        transport.write(http2.PREFACE + http2.settings() + update)

    def data_received(self, data: bytes) -> None:
        """Counts answers, of which only the status is looked at."""
        for frame in self._reader.feed(data):
            if frame.kind == http2.SETTINGS and not frame.flags & http2.ACK:
                self._transport.write(http2.frame(http2.SETTINGS, http2.ACK))
            elif frame.kind == http2.PING and not frame.flags & http2.ACK:
                self._transport.write(http2.frame(http2.PING, http2.ACK, payload=frame.payload))
            elif frame.kind == http2.GOAWAY:
                self._end(f"GOAWAY: {frame.payload!r}")
            elif frame.kind == http2.HEADERS and frame.flags & http2.END_STREAM:
                self._answer(frame.stream, (b"grpc-status", b"0") in frame.headers)
            elif frame.kind == http2.RST_STREAM:
                self._answer(frame.stream, False)

    def _answer(self, stream: int, rightly: bool) -> None:
        waiting = self._waiting.pop(stream, None)
        if waiting is not None:
            waiting.set_result(rightly)
        elif rightly:
            self.answered += 1

    def connection_lost(self, error: Exception | None) -> None:
        """Tells of it."""
        self._end(f"the connection is gone: {error!r}")

    def _end(self, why: str) -> None:
        if not self.lost.done():
            self.lost.set_result(why)
        for waiting in self._waiting.values():
            waiting.set_result(False)
        self._waiting.clear()

    async def give_up(self, request: Request) -> None:
        """Makes a call and resets it."""
        stream = self._begin(request)
        await asyncio.sleep(PATIENCE)
        self._transport.write(http2.frame(http2.RST_STREAM, 0, stream, _CANCEL))

    async def wait(self, request: Request) -> None:
        """Makes a call and waits for its answer."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[self._begin(request)] = waiting
        if not await waiting:
            self.failed += 1

    def _begin(self, request: Request) -> int:
        stream, self._stream = self._stream, self._stream + 2
        self._transport.write(b"".join(call(stream, request)))
        return stream

    def close(self) -> None:
        """Closes the connection."""
        self._transport.abort()


async def load(held: Stage, count: int, callers: Sequence[Caller]) -> None:
    """So many calls that are given up; raises RuntimeError where the gateway ends a connection."""
    left = count
    timeout = (b"grpc-timeout", b"30S")
    request = Request("right", headers(METHOD, timeout), (envelope(held.request),))

    async def one(caller: Caller) -> None:
        nonlocal left
        while left > 0 and not caller.lost.done():
            for _ in range(TURN - 1):
                if left > 0:
                    left -= 1
                    await caller.give_up(request)
            await caller.wait(request)

    per = IN_FLIGHT // CONNECTIONS
    await asyncio.gather(*(one(caller) for caller in callers for _ in range(per)))
    for caller in callers:
        if caller.lost.done():
            raise RuntimeError(caller.lost.result())


def look(held: Stage, given_up: int) -> Row:
    """Weighs and reads the counters."""
    envoy = held.gateway.children()
    return Row(
        given_up,
        rss(held.gateway),
        rss(*envoy),
        rss(*held.host_processes),
        metric(held.metrics, "modelyard_attempts_total", event="cancelled"),
        sum(metric(m, "modelyard_host_stopped_runs_total") for m in held.host_metrics),
    )


async def soak(held: Stage, calls: int, every: int) -> tuple[list[Row], int, int]:
    """Gives the rows, how many calls were answered before they were given up, how many failed."""
    loop = asyncio.get_running_loop()
    host, _, port = held.address.rpartition(":")
    callers = [
        (await loop.create_connection(Caller, host, int(port)))[1] for _ in range(CONNECTIONS)
    ]
    try:
        await load(held, every // 10, callers)
        rows = [await asyncio.to_thread(look, held, 0)]
        for done in range(every, calls + 1, every):
            await load(held, every, callers)
            rows.append(await asyncio.to_thread(look, held, done))
            print(rows[-1], file=sys.stderr, flush=True)
        return rows, sum(c.answered for c in callers), sum(c.failed for c in callers)
    finally:
        for caller in callers:
            caller.close()


def main() -> None:
    """Runs the soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--look-every", type=int, default=100_000)
    parser.add_argument("--front", choices=("http2", "envoy", "grpcio"), default="http2")
    parser.add_argument("--lane", choices=("grpc", "frames"), default="frames")
    arguments = parser.parse_args()
    facts = machine.describe()
    with stage(lane=arguments.lane, front=arguments.front) as held:
        held.temper([Temper(BASE)] * 3)
        began = time.monotonic()
        rows, answered, failed = asyncio.run(soak(held, arguments.calls, arguments.look_every))
        seconds = time.monotonic() - began
        time.sleep(1.0)
        left = {
            "attempts at the gateway": metric(held.metrics, "modelyard_in_flight"),
            "runs at the hosts": sum(
                metric(m, "modelyard_host_pending_runs") for m in held.host_metrics
            ),
        }
    lines = [
        "| given up | gateway's process, MiB | Envoy, MiB | hosts, MiB | attempts cancelled"
        " | runs stopped at hosts |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {r.given_up:,} | {r.gateway} | {r.envoy or ''} | {r.hosts} | {r.cancelled:,.0f}"
        f" | {r.stopped:,.0f} |"
        for r in rows
    ]
    text = (
        f"# A soak of calls that are given up\n\n{report.machine(facts)}\n{rows[-1].given_up:,}"
        f" calls of `{MODEL}` over {CONNECTIONS} connections, {IN_FLIGHT} in flight, each reset"
        f" after {PATIENCE * 1e3:.0f} ms of the {BASE * 1e3:.0f} that it takes; front"
        f" {arguments.front}, lane {arguments.lane}, in {seconds:,.0f} s. {answered:,} were"
        f" answered before. Between them every caller waited for each {TURN}th of its calls:"
        f" {failed} failed. Left at the end: "
        + ", ".join(f"{count:.0f} {what}" for what, count in left.items())
        + ".\n\n"
        + "\n".join(lines)
        + "\n"
    )
    save(
        f"soak-cancels-{arguments.front}",
        text,
        {
            "machine": facts,
            "front": arguments.front,
            "lane": arguments.lane,
            "rows": [asdict(row) for row in rows],
            "answered": answered,
            "failed": failed,
            "left": left,
        },
    )


if __name__ == "__main__":
    main()
