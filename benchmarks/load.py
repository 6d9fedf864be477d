"""The client of every measurement: one process, on one core, that calls in a closed loop.

It reads orders from standard input and answers each on standard output, a line of JSON both ways.
An order names an address, a file with one serialized request, how many calls are in flight and for
how many seconds. Requests and answers stay bytes, so that the client's own cost is the least.
"""

import asyncio
import gc
import json
import os
import selectors
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import numpy as np

METHOD = "/inference.GRPCInferenceService/ModelInfer"
ONNXRUNTIME = "onnxruntime:"
_LIMIT = 256 << 20
_CALL_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Order:
    """What to measure.

    Attributes:
        address: Of a gRPC server, or `onnxruntime:FILE` for the model in this process.
        request: A file with a serialized ModelInferRequest.
        in_flight: Calls under way at any moment.
        seconds: How long.
        rate: Calls a second that are begun whatever becomes of those before them, their time
            counted from when they were due; 0 for a closed loop.
        keep: When each call was due and how long it took is told, too.
    """

    address: str
    request: str
    in_flight: int
    seconds: float
    rate: float = 0.0
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """What one measurement gave; times in microseconds.

    Attributes:
        cpu: Processor time a call, by process.
        times: Of each call that was answered, where they are kept.
        dues: When each of these was due, in seconds of `time.perf_counter`.
    """

    calls: int
    errors: int
    p50: float
    p99: float
    throughput: float
    first_error: str = ""
    cpu: dict[str, float] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    dues: list[float] = field(default_factory=list)


# A call that was answered: when it was due, and how long it took, in seconds.
Took = tuple[float, float]


def sample_of(calls: list[Took], errors: list[str], elapsed: float, order: Order) -> Sample:
    """What became of calls."""
    times = [took for _, took in calls]
    p50, p99 = np.percentile(times, (50, 99)) * 1e6 if times else (0.0, 0.0)
    return Sample(
        calls=len(times),
        errors=len(errors),
        p50=round(float(p50), 1),
        p99=round(float(p99), 1),
        throughput=round(len(times) / elapsed, 1),
        first_error=errors[0] if errors else "",
        times=[round(1e6 * time, 1) for time in times] if order.keep else [],
        dues=[due for due, _ in calls] if order.keep else [],
    )


async def closed_loop(one: Callable[[], Awaitable[object]], order: Order) -> Sample:
    """Calls again as soon as an answer is there."""
    calls: list[Took] = []
    errors: list[str] = []
    began = time.perf_counter()
    end = began + order.seconds

    async def caller() -> None:
        while (start := time.perf_counter()) < end:
            try:
                await one()
            except grpc.aio.AioRpcError as error:
                errors.append(f"{error.code().name}: {error.details()}")
            else:
                calls.append((start, time.perf_counter() - start))

    await asyncio.gather(*(caller() for _ in range(order.in_flight)))
    return sample_of(calls, errors, time.perf_counter() - began, order)


async def due(rate: float, seconds: float) -> AsyncIterator[float]:
    """Waits for each moment at which a call is due, at a rate, and gives it; it may be over."""
    began = time.perf_counter()
    for index in range(int(seconds * rate)):
        moment = began + index / rate
        await asyncio.sleep(max(0.0, moment - time.perf_counter()))
        yield moment


async def open_loop(one: Callable[[], Awaitable[object]], order: Order) -> Sample:
    """Calls at a rate; who is late has waited."""
    calls: list[Took] = []
    errors: list[str] = []
    began = time.perf_counter()

    async def call(moment: float) -> None:
        try:
            await one()
        except grpc.aio.AioRpcError as error:
            errors.append(f"{error.code().name}: {error.details()}")
        else:
            calls.append((moment, time.perf_counter() - moment))

    async with asyncio.TaskGroup() as under_way:
        async for moment in due(order.rate, order.seconds):
            under_way.create_task(call(moment))
    return sample_of(calls, errors, time.perf_counter() - began, order)


def in_process(order: Order) -> Sample:
    """The same model with nothing around it: one run after the other."""
    import onnxruntime as ort

    from modelyard.inference.v2 import open_inference_pb2 as pb

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    path = order.address.removeprefix(ONNXRUNTIME)
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    message = pb.ModelInferRequest.FromString(Path(order.request).read_bytes())
    shape = tuple(message.inputs[0].shape)
    feeds = {"x": np.frombuffer(message.raw_input_contents[0], np.float32).reshape(shape)}
    times = []
    end = time.perf_counter() + order.seconds
    while (start := time.perf_counter()) < end:
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    p50, p99 = np.percentile(times, (50, 99)) * 1e6
    return Sample(
        len(times), 0, round(float(p50), 1), round(float(p99), 1), round(len(times) / sum(times), 1)
    )


class Client:
    """Channels by address, kept open from one order to the next."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def obey(self, order: Order) -> Sample:
        """Carries out one order."""
        if order.address.startswith(ONNXRUNTIME):
            return in_process(order)
        channel = self._channels.get(order.address)
        if channel is None:
            channel = self._channels[order.address] = grpc.aio.insecure_channel(
                order.address,
                options=[
                    ("grpc.max_receive_message_length", _LIMIT),
                    ("grpc.max_send_message_length", _LIMIT),
                ],
            )
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        payload = Path(order.request).read_bytes()
        loop = open_loop if order.rate else closed_loop
        return await loop(lambda: call(payload, timeout=_CALL_TIMEOUT), order)


async def main() -> None:
    """Obeys until standard input ends."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    client = Client()
    # What it is made of is never looked at for garbage again: pauses would be its own.
    gc.collect()
    gc.freeze()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        sample = await client.obey(Order(**json.loads(line)))
        print(json.dumps(asdict(sample)), flush=True)


def exact_loop() -> asyncio.AbstractEventLoop:
    """A loop with fine timers: select(2) takes microseconds, epoll_wait(2) whole milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=exact_loop) as runner:
        runner.run(main())
