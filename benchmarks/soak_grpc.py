"""The soak of one grpcio version, gRPC alone: does memory stay flat, do losers stop?

Three processes: a server of bytes, a proxy as a gateway is one, and a client as a caller is one.
Imports grpc, the standard library and `modelyard.calls` only, so that it runs in a bare
environment of any grpcio, and is one file of more than 300 lines so that it can be handed to one::

    python -m benchmarks.soak_grpc [--scale 1.0]       # prints one JSON object on stdout

The phases, each after the other on the same processes:

- `calls`: unary calls through the proxy;
- `cancelled`: the caller cancels while the server works;
- `expired`: the caller's deadline ends while the server works;
- `refused`: the server answers with an error;
- `cancelled, ours`: the caller's task is cancelled; caller and proxy await with `modelyard.calls`;
- `hedged, cancelled`: the proxy starts two, takes the first, and calls `cancel()` on the other;
- `hedged, task cancelled`: as before, but the task that awaits the other is cancelled;
- `hedged, ours`: as before, and the other is awaited with `modelyard.calls`;
- `hedged, abandoned`: as before, but the other is dropped, and nothing is said to it.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import grpc
import grpc.aio

from modelyard.calls import answer

SERVICE = "/soak.Soak/"
PAYLOAD = bytes(1024)
IN_FLIGHT = 16
# A loser that nobody stops works this long: longer than a phase lasts.
SLOW_SECONDS = 120.0
QUARTERS = 4

Handler = Callable[[bytes, "grpc.aio.ServicerContext[bytes, bytes]"], Awaitable[bytes]]
Methods = dict[str, "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"]


class Routes(grpc.GenericRpcHandler):
    """Unary methods by their bare names, bytes in and bytes out."""

    def __init__(self, methods: dict[str, Handler]) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            SERVICE + name: grpc.unary_unary_rpc_method_handler(method)
            for name, method in methods.items()
        }

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        """Gives the handler of a method, or None."""
        return self._handlers.get(details.method)


async def listen(methods: dict[str, Handler], address: str) -> None:
    """Serves until killed; prints the bound address first."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Routes(methods),))
    port = server.add_insecure_port(address)
    await server.start()
    print(address if address.startswith("unix:") else f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


async def serve(address: str) -> None:
    """The host: echoes, dawdles, refuses, and tells how many calls it still works on."""
    running = 0

    async def fast(request: bytes, _context: object) -> bytes:
        return request

    async def slow(request: bytes, _context: object) -> bytes:
        nonlocal running
        running += 1
        try:
            await asyncio.sleep(SLOW_SECONDS)
        finally:
            running -= 1
        return request

    async def refuse(_request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no")

    async def pending(_request: bytes, _context: object) -> bytes:
        return str(running).encode()

    await listen({"Fast": fast, "Slow": slow, "Refuse": refuse, "Pending": pending}, address)


async def proxy(address: str, upstream: str) -> None:
    """The gateway: passes calls on, and hedges in three manners."""
    channel = grpc.aio.insecure_channel(upstream)
    methods: Methods = {
        name: channel.unary_unary(SERVICE + name) for name in ("Fast", "Slow", "Refuse", "Pending")
    }

    def passing(name: str) -> Handler:
        async def pass_on(
            request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]"
        ) -> bytes:
            call = methods[name](request, timeout=context.time_remaining())
            try:
                return await call
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")

        return pass_on

    async def hedge_cancelled(request: bytes, _context: object) -> bytes:
        loser = methods["Slow"](request)
        await asyncio.sleep(0)
        answer = await methods["Fast"](request)
        loser.cancel()
        return answer

    async def hedge_task(request: bytes, _context: object) -> bytes:
        async def lose() -> bytes:
            return await methods["Slow"](request)

        loser = asyncio.create_task(lose())
        await asyncio.sleep(0)
        answer = await methods["Fast"](request)
        loser.cancel()
        return answer

    async def stop(request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        return await answer(methods["Slow"](request, timeout=context.time_remaining()))

    async def hedge_ours(request: bytes, _context: object) -> bytes:
        loser = asyncio.create_task(answer(methods["Slow"](request)))
        await asyncio.sleep(0)
        response = await answer(methods["Fast"](request))
        loser.cancel()
        return response

    async def hedge_abandoned(request: bytes, _context: object) -> bytes:
        methods["Slow"](request)  # begun, and forgotten
        await asyncio.sleep(0)
        return await methods["Fast"](request)

    await listen(
        {
            **{name: passing(name) for name in methods},
            "HedgeCancelled": hedge_cancelled,
            "HedgeTask": hedge_task,
            "HedgeOurs": hedge_ours,
            "Ours": stop,
            "HedgeAbandoned": hedge_abandoned,
        },
        address,
    )


@dataclass
class Phase:
    """One phase: what was done, and what was left after it.

    Attributes:
        rss_mib: Per process, after each quarter of the phase.
        bytes_per_call: Growth from the first quarter's end to the last's, over the calls between.
        pending: Calls that the server still works on, a second after the phase.
        seconds: How long it took; the machine may be busy, so this is no benchmark.
    """

    name: str
    calls: int
    rss_mib: dict[str, list[float]] = field(default_factory=dict)
    bytes_per_call: dict[str, float] = field(default_factory=dict)
    pending: int = 0
    seconds: float = 0.0


def rss_mib(pid: int) -> float:
    """Resident memory of a process in MiB, from /proc."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


class Driver:
    """The caller: runs phases and weighs the processes."""

    def __init__(self, channel: grpc.aio.Channel, processes: dict[str, int]) -> None:
        self._methods: Methods = {
            name: channel.unary_unary(SERVICE + name)
            for name in (
                *("Fast", "Slow", "Refuse", "Pending"),
                *("Ours", "HedgeCancelled", "HedgeTask", "HedgeOurs", "HedgeAbandoned"),
            )
        }
        self._processes = processes

    async def call(self, name: str) -> None:
        """One call that must succeed."""
        await self._methods[name](PAYLOAD)

    async def cancel(self) -> None:
        """One call, cancelled while the server works on it."""
        call = self._methods["Slow"](PAYLOAD)
        await asyncio.sleep(0.005)
        call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            return
        raise RuntimeError("a cancelled call answered")

    async def give_up(self) -> None:
        """One call whose awaiting task is cancelled, with `modelyard.calls` on every hop."""
        waiting = asyncio.create_task(answer(self._methods["Ours"](PAYLOAD)))
        await asyncio.sleep(0.005)
        waiting.cancel()
        await asyncio.wait([waiting])
        if not waiting.cancelled():
            raise RuntimeError("a cancelled call answered")

    async def expire(self) -> None:
        """One call whose deadline ends while the server works on it."""
        await self._fails("Slow", grpc.StatusCode.DEADLINE_EXCEEDED, timeout=0.02)

    async def refused(self) -> None:
        """One call that the server refuses."""
        await self._fails("Refuse", grpc.StatusCode.FAILED_PRECONDITION)

    async def _fails(self, name: str, code: grpc.StatusCode, timeout: float | None = None) -> None:
        try:
            await self._methods[name](PAYLOAD, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() == code:
                return
            raise
        raise RuntimeError(f"{name} answered, and should not")

    async def phase(self, name: str, calls: int, one: Callable[[], Awaitable[None]]) -> Phase:
        """Runs a phase, IN_FLIGHT at a time, and weighs after each quarter."""
        phase = Phase(name, calls, {who: [] for who in self._processes})
        began = time.monotonic()
        each = calls // QUARTERS // IN_FLIGHT

        async def caller() -> None:
            for _ in range(each):
                await one()

        for _ in range(QUARTERS):
            await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
            gc.collect()
            await asyncio.sleep(1.0)
            for who, pid in self._processes.items():
                phase.rss_mib[who].append(round(rss_mib(pid), 2))
        between = each * IN_FLIGHT * (QUARTERS - 1)
        for who, weights in phase.rss_mib.items():
            phase.bytes_per_call[who] = round((weights[-1] - weights[0]) * 2**20 / between, 1)
        phase.pending = int(await self._methods["Pending"](b""))
        phase.seconds = round(time.monotonic() - began, 1)
        print(json.dumps(asdict(phase)), file=sys.stderr, flush=True)
        return phase


async def start(*arguments: str) -> tuple[asyncio.subprocess.Process, str]:
    """Starts a role of this module as a process; gives it and its address."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.soak_grpc", *arguments), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    address = (await process.stdout.readline()).decode().strip()
    if not address:
        raise RuntimeError(f"{arguments[0]} did not start")
    return process, address


async def drive(scale: float) -> dict[str, object]:
    """Runs all phases; `scale` 1.0 is 100,000 calls and 10,000 of each cancelled kind."""
    many, some = int(100_000 * scale), int(10_000 * scale)
    with tempfile.TemporaryDirectory() as folder:
        server, upstream = await start("server", f"unix:{folder}/host.sock")
        front, address = await start("proxy", "127.0.0.1:0", upstream)
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                driver = Driver(
                    channel, {"server": server.pid, "proxy": front.pid, "client": os.getpid()}
                )
                fast = partial(driver.call, "Fast")
                phases = [
                    await driver.phase("warm", some, fast),
                    await driver.phase("calls", many, fast),
                    await driver.phase("cancelled", some, driver.cancel),
                    await driver.phase("cancelled, ours", some, driver.give_up),
                    await driver.phase("expired", some, driver.expire),
                    await driver.phase("refused", some, driver.refused),
                    *[
                        await driver.phase(name, some, partial(driver.call, method))
                        for name, method in (
                            ("hedged, cancelled", "HedgeCancelled"),
                            ("hedged, task cancelled", "HedgeTask"),
                            ("hedged, ours", "HedgeOurs"),
                            ("hedged, abandoned", "HedgeAbandoned"),
                        )
                    ],
                    await driver.phase("calls again", many // 4, fast),
                ]
        finally:
            for process in (front, server):
                process.kill()
                await process.wait()
    return {
        "grpcio": grpc.__version__,
        "python": sys.version.split()[0],
        "in_flight": IN_FLIGHT,
        "phases": [asdict(phase) for phase in phases],
    }


def main() -> None:
    """Runs the soak, or one role of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="*", default=["drive"], help=argparse.SUPPRESS)
    parser.add_argument("--scale", type=float, default=1.0)
    arguments = parser.parse_args()
    match arguments.role:
        case ["server", address]:
            asyncio.run(serve(address))
        case ["proxy", address, upstream]:
            asyncio.run(proxy(address, upstream))
        case _:
            print(json.dumps(asyncio.run(drive(arguments.scale)), indent=1))


if __name__ == "__main__":
    main()
