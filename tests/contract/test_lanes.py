"""What every lane to a host does alike: the same tests over gRPC and over frames.

Past 300 lines: one host for each lane serves most of it, and a second file would start each again.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from gateway.call import Endpoint
from modelyard.errors import (
    DeadlineExceeded,
    HostGone,
    InvalidArgument,
    InvalidTensor,
    MessageTooLarge,
    ModelNotFound,
    ModelyardError,
    Overloaded,
    Unimplemented,
    VersionNotFound,
    VersionNotServing,
)
from modelyard.inference.v2 import open_inference_pb2 as pb
from modelyard.metadata import REQUEST_ID, TARGET
from tests.kit import graphs
from tests.kit.host import Host, arrays_of, request
from tests.kit.lanes import LANES, endpoint, framed_host

MINE = ((REQUEST_ID, "r-1"), (TARGET, "models/m/versions/1"))
A = np.ones(3, np.float32)
# Some 0.7 us a round.
HOURS = {"rounds": np.array(10**12), "x": np.ones(4, np.float32)}
ONE_SECOND = {"rounds": np.array(10**6), "x": np.ones(4, np.float32)}


def write(folder: Path, model: Any) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host of `identity`, that takes messages of up to 80 MiB."""
    folder = tmp_path_factory.mktemp("identity")
    # On a busy machine its runs may have to wait for threads.
    limits = ("--max-message-bytes", str(80 << 20), "--queue", "1000")
    with framed_host(write(folder, graphs.identity()), folder, arguments=limits) as host:
        yield host


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host whose runs take as long as they are told; two run, two wait."""
    folder = tmp_path_factory.mktemp("loop")
    flags = ("--workers", "2", "--queue", "2")
    with framed_host(write(folder, graphs.loop()), folder, arguments=flags) as host:
        yield host


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def ask(host: Host, lane: str) -> AsyncIterator[Endpoint]:
    async with endpoint(host, lane) as made:
        yield made


@pytest.fixture
async def work(busy: Host, lane: str) -> AsyncIterator[Endpoint]:
    async with endpoint(busy, lane) as made:
        yield made


async def infer(
    asked: Endpoint,
    arrays: dict[str, Any],
    timeout: float = 30.0,
    metadata: Any = MINE,
    **fields: Any,
) -> pb.ModelInferResponse:
    payload = request("m", arrays, **fields).SerializeToString()
    return pb.ModelInferResponse.FromString(
        await asked.call("ModelInfer", payload, metadata, timeout)
    )


async def until(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.02)


def seconds_computed(host: Host) -> float:
    times = psutil.Process(host.process.pid).cpu_times()
    return float(times.user + times.system)


async def until_idle(host: Host) -> None:
    end = time.monotonic() + 30
    while True:
        before = seconds_computed(host)
        await asyncio.sleep(0.3)
        if seconds_computed(host) - before < 0.1:
            return
        assert time.monotonic() < end, "it computes on"


async def statistics(asked: Endpoint) -> pb.ModelStatistics:
    reply = await asked.call("ModelStatistics", b"", MINE, 20.0)
    (found,) = pb.ModelStatisticsResponse.FromString(reply).model_stats
    return found


async def failure(asked: Awaitable[Any]) -> ModelyardError:
    with pytest.raises(ModelyardError) as caught:
        await asked
    return caught.value


# Answers.


@pytest.mark.parametrize("floats", [0, 1, 1000, 20_000, 16 << 20], ids=lambda n: f"{n * 4}B")
async def test_gives_the_answer(ask: Endpoint, floats: int) -> None:
    x = np.random.default_rng(floats).standard_normal(floats, np.float32)
    answer = await infer(ask, {"x": x}, id="seven")
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "1", "seven")
    assert np.array_equal(arrays_of(answer)["y"], x)


async def test_many_in_flight_each_get_their_own(ask: Endpoint) -> None:
    async def one(number: int) -> None:
        x = np.full(1 + number % 7 * 5000, number, np.float32)
        answer = await infer(ask, {"x": x}, id=str(number))
        assert answer.id == str(number)
        assert np.array_equal(arrays_of(answer)["y"], x)

    await asyncio.gather(*(one(number) for number in range(800)))


async def test_large_and_small_side_by_side(ask: Endpoint) -> None:
    large = np.arange(8 << 20, dtype=np.float32)
    answers = await asyncio.gather(
        *(infer(ask, {"x": large}) for _ in range(3)),
        *(infer(ask, {"x": A}) for _ in range(50)),
    )
    assert all(np.array_equal(arrays_of(a)["y"], large) for a in answers[:3])
    assert all(np.array_equal(arrays_of(a)["y"], A) for a in answers[3:])


async def test_every_question(ask: Endpoint) -> None:
    async def question(method: str, message: Any, kind: Any) -> Any:
        return kind.FromString(await ask.call(method, message.SerializeToString(), MINE, 20.0))

    assert (await question("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse)).live
    assert (await question("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)).ready
    mine = pb.ModelReadyRequest(name="m", version="1")
    assert (await question("ModelReady", mine, pb.ModelReadyResponse)).ready
    server = await question("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
    assert server.name == "modelyard"
    told = await question(
        "ModelMetadata", pb.ModelMetadataRequest(name="m"), pb.ModelMetadataResponse
    )
    assert [(t.name, t.datatype) for t in told.inputs] == [("x", "FP32")]
    config = await question("ModelConfig", pb.ModelConfigRequest(name="m"), pb.ModelConfigResponse)
    assert config.config.max_batch_size > 0
    index = await question(
        "RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse
    )
    assert [(m.name, m.version, m.state) for m in index.models] == [("m", "1", "READY")]


async def test_the_statistics_count_it(ask: Endpoint) -> None:
    before = await statistics(ask)
    await infer(ask, {"x": A})
    await failure(infer(ask, {"q": A}))
    after = await statistics(ask)
    assert after.inference_stats.success.count == before.inference_stats.success.count + 1
    assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
    assert after.execution_count == before.execution_count + 1


# Errors.

WRONG: list[tuple[str, Callable[[Endpoint], Awaitable[Any]], type[ModelyardError]]] = [
    ("input", lambda ask: infer(ask, {"q": A}), InvalidTensor),
    ("datatype", lambda ask: infer(ask, {"x": A.astype(np.float64)}), InvalidTensor),
    ("output", lambda ask: infer(ask, {"x": A}, outputs=["q"]), InvalidTensor),
    (
        "target",
        lambda ask: infer(ask, {"x": A}, metadata=((TARGET, "models/m/versions/8"),)),
        VersionNotServing,
    ),
    (
        "version",
        lambda ask: ask.call(
            "ModelInfer", request("m", {"x": A}, version="9").SerializeToString(), (), 20.0
        ),
        VersionNotFound,
    ),
    (
        "model",
        lambda ask: ask.call("ModelInfer", request("q", {"x": A}).SerializeToString(), (), 20.0),
        ModelNotFound,
    ),
    ("bytes", lambda ask: ask.call("ModelInfer", b"\xff\xff\xff", MINE, 20.0), InvalidArgument),
    ("method", lambda ask: ask.call("RepositoryModelLoad", b"", MINE, 20.0), Unimplemented),
    ("unknown method", lambda ask: ask.call("Nothing", b"", MINE, 20.0), Unimplemented),
]


@pytest.mark.parametrize(("call", "kind"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
async def test_an_error_travels_whole(
    ask: Endpoint, call: Callable[[Endpoint], Awaitable[Any]], kind: type[ModelyardError]
) -> None:
    error = await failure(call(ask))
    assert type(error) is kind
    assert error.pushback is None
    assert (await infer(ask, {"x": A})).model_name == "m"


@pytest.mark.parametrize("call", [w[1] for w in WRONG[:7]], ids=[w[0] for w in WRONG[:7]])
async def test_both_lanes_say_the_same(
    host: Host, call: Callable[[Endpoint], Awaitable[Any]]
) -> None:
    told = []
    for lane in LANES:
        async with endpoint(host, lane) as asked:
            error = await failure(call(asked))
            told.append((type(error), error.message, error.metadata, error.retry_after))
    assert told[0] == told[1]
    assert told[0][1]


async def test_a_message_that_is_too_large_costs_that_call_alone(ask: Endpoint) -> None:
    beside = asyncio.ensure_future(infer(ask, {"x": A}))
    error = await failure(infer(ask, {"x": np.zeros(21 << 20, np.float32)}))
    assert type(error) is MessageTooLarge
    assert np.array_equal(arrays_of(await beside)["y"], A)


async def test_an_answer_that_is_too_large_costs_that_call_alone(host: Host, lane: str) -> None:
    x = np.zeros(1 << 18, np.float32)
    # The answer is as large as the request, and the version's number more.
    limit = len(request("m", {"x": x}).SerializeToString())
    async with endpoint(host, lane, largest=limit) as ask:
        error = await failure(infer(ask, {"x": x}))
        assert type(error) is MessageTooLarge
        assert (await infer(ask, {"x": A})).model_name == "m"


# Time, and giving up.


async def test_the_deadline_reaches_the_run(work: Endpoint, busy: Host) -> None:
    error = await failure(infer(work, HOURS, timeout=0.5))
    assert type(error) is DeadlineExceeded
    await until_idle(busy)
    assert (await infer(work, {**HOURS, "rounds": np.array(1)})).model_name == "m"


async def test_the_parameter_timeout_ends_the_run(work: Endpoint, busy: Host) -> None:
    call = request("m", HOURS)
    call.parameters["timeout"].int64_param = 300_000
    error = await failure(work.call("ModelInfer", call.SerializeToString(), MINE, 30.0))
    assert type(error) is DeadlineExceeded
    await until_idle(busy)


@pytest.mark.parametrize("timeout", [0.0, -1.0, 1e-6])
async def test_no_time_left_is_told_at_once(work: Endpoint, busy: Host, timeout: float) -> None:
    assert type(await failure(infer(work, HOURS, timeout=timeout))) is DeadlineExceeded
    await until_idle(busy)


async def test_giving_up_stops_the_run(work: Endpoint, busy: Host) -> None:
    before = await statistics(work)
    given_up = asyncio.ensure_future(infer(work, HOURS, timeout=600.0))
    begun = seconds_computed(busy)
    await until(lambda: seconds_computed(busy) - begun > 0.3)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    await until_idle(busy)
    after = await statistics(work)
    assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1


async def test_calls_that_wait_are_given_up_too(work: Endpoint, busy: Host) -> None:
    calls = [asyncio.ensure_future(infer(work, HOURS, timeout=600.0)) for _ in range(4)]
    begun = seconds_computed(busy)
    await until(lambda: seconds_computed(busy) - begun > 0.3)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert all(call.cancelled() for call in calls)
    await until_idle(busy)
    assert (await infer(work, {**HOURS, "rounds": np.array(1)})).model_name == "m"


async def test_a_call_that_is_given_up_as_soon_as_it_was_made_stops(
    work: Endpoint, busy: Host
) -> None:
    await infer(work, {**HOURS, "rounds": np.array(1)})
    calls = [asyncio.ensure_future(infer(work, HOURS, timeout=600.0)) for _ in range(4)]
    # Over frames, the requests and that they are given up then arrive together.
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert all(call.cancelled() for call in calls)
    await until_idle(busy)
    assert (await infer(work, {**HOURS, "rounds": np.array(1)})).model_name == "m"


async def test_a_full_queue_says_when_to_come_back(work: Endpoint, busy: Host) -> None:
    calls = [asyncio.ensure_future(infer(work, HOURS, timeout=600.0)) for _ in range(4)]
    begun = seconds_computed(busy)
    await until(lambda: seconds_computed(busy) - begun > 0.3)
    error = await failure(infer(work, HOURS))
    assert type(error) is Overloaded
    assert error.retry_after is not None
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await until_idle(busy)


async def test_metadata_of_every_sort_passes(ask: Endpoint) -> None:
    more = (("x-empty", ""), ("x-raw-bin", b"\x00\xff\n"), ("x-long", "v" * 3000), *MINE)
    assert (await infer(ask, {"x": A}, metadata=more)).model_name == "m"


# Ends.


async def test_a_host_that_is_killed_is_gone_for_every_call(lane: str, tmp_path: Path) -> None:
    with framed_host(write(tmp_path, graphs.loop()), tmp_path) as host:
        async with endpoint(host, lane) as asked:
            calls = [asyncio.ensure_future(infer(asked, HOURS, timeout=60.0)) for _ in range(8)]
            begun = seconds_computed(host)
            await until(lambda: seconds_computed(host) - begun > 0.3)
            host.process.kill()
            async with asyncio.timeout(30):
                errors = [await failure(call) for call in calls]
            assert {type(error) for error in errors} == {HostGone}
            assert type(await failure(infer(asked, HOURS, timeout=5.0))) is HostGone


async def test_a_drain_ends_what_has_begun(lane: str, tmp_path: Path) -> None:
    with framed_host(write(tmp_path, graphs.loop()), tmp_path) as host:
        async with endpoint(host, lane) as asked:
            begun = seconds_computed(host)
            call = asyncio.ensure_future(infer(asked, ONE_SECOND, timeout=60.0))
            await until(lambda: seconds_computed(host) - begun > 0.2)
            host.process.send_signal(signal.SIGTERM)
            assert arrays_of(await call)["y"].shape == (4,)
            assert await asyncio.to_thread(host.process.wait, 30) == 0
            assert type(await failure(infer(asked, ONE_SECOND))) is HostGone


async def test_new_calls_are_refused_while_old_ones_end(lane: str, tmp_path: Path) -> None:
    with framed_host(write(tmp_path, graphs.loop()), tmp_path) as host:
        async with endpoint(host, lane) as asked:
            begun = seconds_computed(host)
            call = asyncio.ensure_future(infer(asked, HOURS, timeout=120.0))
            await until(lambda: seconds_computed(host) - begun > 0.2)
            host.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(host.wait_stage, "draining")
            end = time.monotonic() + 20
            while True:
                # Until those who choose hosts have heard of it, it takes calls.
                try:
                    await infer(asked, {**HOURS, "rounds": np.array(1)}, timeout=5.0)
                except HostGone:
                    break
                assert time.monotonic() < end
            assert not call.done()
            call.cancel()
            assert await asyncio.to_thread(host.process.wait, 30) == 0


async def test_a_closed_endpoint_ends_its_calls(work: Endpoint, busy: Host) -> None:
    call = asyncio.ensure_future(infer(work, HOURS, timeout=60.0))
    begun = seconds_computed(busy)
    await until(lambda: seconds_computed(busy) - begun > 0.2)
    await work.close()
    assert type(await failure(call)) is HostGone
    assert type(await failure(infer(work, HOURS))) is HostGone
    await until_idle(busy)
