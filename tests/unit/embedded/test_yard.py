"""A yard inside a program: the same results and errors as over the wire, from any thread.

Past 300 lines: one loaded yard serves most of it, and a second file would load another.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from modelyard import Client, embedded
from modelyard.embedded import AsyncYard, Yard
from modelyard.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    InvalidArtifact,
    InvalidName,
    InvalidTensor,
    LabelNotFound,
    ModelNotFound,
    ModelyardError,
    Overloaded,
    VersionNotFound,
)
from services.inference.host.session import OnnxModel
from tests.kit import graphs
from tests.kit.scale import scale
from tests.kit.serving import serving
from tests.kit.yard import eventually

X = np.array([[1.0, 2.0]], np.float32)
ONE = np.ones(4, np.float32)
# Some 0.7 us a round.
HOURS = {"rounds": np.array(10**12), "x": ONE}
ONE_SECOND = {"rounds": np.array(10**6), "x": ONE}
TYPES = ("FP32", "FP64", "FP16", "BF16", "BOOL", "INT8", "UINT16", "INT64", "BYTES")


def saved(folder: Path, name: str, model: onnx.ModelProto) -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("embedded")
    found = {"double": scale(folder, 2.0), "slow": saved(folder, "slow", graphs.loop())}
    found["pair"] = saved(folder, "pair", graphs.pair())
    found["bias"] = saved(folder, "bias", graphs.bias())
    for datatype in TYPES:
        name = f"id-{datatype.lower()}"
        found[name] = saved(folder, name, graphs.identity(datatype))
    return found


@pytest.fixture(scope="module")
def yard(files: dict[str, Path]) -> Iterator[Yard]:
    with Yard(files) as yard:
        yield yard


@pytest.fixture(scope="module")
def client(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The same files over the wire: what the yard is compared with."""
    folder = tmp_path_factory.mktemp("wire")
    named = [f"{name}={path}" for name, path in files.items()]
    with serving(folder, *named) as served, served.client() as client:
        yield client


def workers(yard: Yard, model: str) -> Any:
    return next(w for v, w in yard._core.workers.items() if v.model == model)


def test_a_call(yard: Yard) -> None:
    answer = yard.infer("double", {"X": X}, request_id="mine", deadline=timedelta(seconds=10))
    np.testing.assert_array_equal(answer["Y"], 2 * X)
    assert str(answer.served_by) == "models/double/versions/1"
    assert (answer.version, answer.attempt, answer.request_id) == (1, "primary", "mine")
    assert not answer["Y"].flags.writeable
    assert yard.infer("double", {"X": X}).request_id
    for version in (1, "1", "live"):
        yard.infer("double", {"X": X}, version=version)


def test_lists_and_chosen_outputs(yard: Yard) -> None:
    a, b = np.array([5, 7], np.float32), np.array([1, 2], np.float32)
    answer = yard.infer("pair", {"a": a, "b": b}, outputs=["gap"])
    assert {k: v.tolist() for k, v in answer.items()} == {"gap": [4, 5]}
    assert list(yard.infer("pair", {"b": b, "a": a})) == ["total", "gap"]
    with pytest.raises(InvalidTensor, match="unexpected datatype 'FP64'"):
        yard.infer("pair", {"a": [5.0, 7.0], "b": [1.0, 2.0]})
    x = np.zeros((1, 3), np.float32)
    assert yard.infer("bias", {"x": x})["y"].tolist() == [[1, 2, 3]]


def values(datatype: str) -> np.ndarray:
    match datatype:
        case "BYTES":
            return np.array(["", "grüße", b"\xc3\xa4"], object)
        case "BF16":
            return np.array([1.5, -2.0, 3.0], ml_dtypes.bfloat16)
        case "BOOL":
            return np.array([True, False, True])
    name = datatype.lower().replace("fp", "float")
    return np.array([0, 1, 100], name)


@pytest.mark.parametrize("datatype", TYPES)
def test_a_datatype_as_over_the_wire(yard: Yard, client: Client, datatype: str) -> None:
    model, x = f"id-{datatype.lower()}", values(datatype)
    here, there = yard.infer(model, {"x": x})["y"], client.infer(model, {"x": x})["y"]
    assert (here.dtype, here.shape) == (there.dtype, there.shape)
    assert here.tolist() == there.tolist()
    assert [type(v) for v in here.tolist()] == [type(v) for v in there.tolist()]
    assert here.flags.writeable == there.flags.writeable or datatype == "BYTES"


@pytest.mark.parametrize(
    "x",
    [
        np.arange(6, dtype=">f4"),
        np.arange(12, dtype=np.float32)[::2],
        np.zeros(0, np.float32),
    ],
    ids=["the other byte order", "with gaps", "nothing"],
)
def test_a_layout_as_over_the_wire(yard: Yard, client: Client, x: np.ndarray) -> None:
    here, there = yard.infer("id-fp32", {"x": x})["y"], client.infer("id-fp32", {"x": x})["y"]
    assert here.dtype == there.dtype == np.float32
    assert here.tolist() == there.tolist() == x.tolist()


@pytest.mark.parametrize("x", [np.array(["a", "bc"]), np.array([b"a", b"bc"])], ids=["U", "S"])
def test_texts_as_over_the_wire(yard: Yard, client: Client, x: np.ndarray) -> None:
    here, there = yard.infer("id-bytes", {"x": x})["y"], client.infer("id-bytes", {"x": x})["y"]
    assert here.tolist() == there.tolist() == [b"a", b"bc"]


def test_an_output_is_not_the_input(yard: Yard) -> None:
    x = np.ones(3, np.float32)
    y = yard.infer("id-fp32", {"x": x})["y"]
    x[:] = 5
    assert y.tolist() == [1, 1, 1]
    assert x.flags.writeable


WRONG: list[tuple[dict[str, Any], type[ModelyardError]]] = [
    ({"model": "nope"}, ModelNotFound),
    ({"model": ""}, InvalidArgument),
    ({"version": 9}, VersionNotFound),
    ({"version": "canary"}, LabelNotFound),
    ({"inputs": {"Z": X}}, InvalidTensor),
    ({"inputs": {}}, InvalidTensor),
    ({"inputs": {"X": X, "Z": X}}, InvalidTensor),
    ({"inputs": {"X": X[0]}}, InvalidTensor),
    ({"inputs": {"X": X.astype(np.int32)}}, InvalidTensor),
    ({"inputs": {"X": np.array(["a"])}}, InvalidTensor),
    ({"inputs": {"X": np.array(["2020-01-01"], "datetime64[D]")}}, InvalidTensor),
    ({"model": "id-bytes", "inputs": {"x": np.array([b"\xff"], object)}}, InvalidTensor),
    ({"outputs": ["Q"]}, InvalidTensor),
    ({"parameters": {"timeout": "soon"}}, InvalidArgument),
    ({"parameters": {"p": [1]}}, InvalidArgument),
    ({"deadline": -1.0}, DeadlineExceeded),
    ({"model": "slow", "inputs": HOURS, "deadline": 0.05}, DeadlineExceeded),
    ({"model": "slow", "inputs": HOURS, "parameters": {"timeout": 50_000}}, DeadlineExceeded),
]


@pytest.mark.parametrize(("arguments", "kind"), WRONG)
def test_an_error_as_over_the_wire(
    yard: Yard, client: Client, arguments: dict[str, Any], kind: type[ModelyardError]
) -> None:
    asked = {"model": "double", "inputs": {"X": X}, **arguments}
    with pytest.raises(kind) as here:
        yard.infer(**asked)
    with pytest.raises(kind) as there:
        client.infer(**asked)
    assert type(here.value) is type(there.value) is kind
    if kind is not DeadlineExceeded:  # Whose clock sees it first is chance.
        assert here.value.message == there.value.message


def test_an_element_that_is_no_text(yard: Yard) -> None:
    with pytest.raises(InvalidTensor, match=r"element 0 of input 'x'.*neither str nor bytes"):
        yard.infer("id-bytes", {"x": np.array([7], object)})


def test_a_strangers_error_tells_nothing_of_itself(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Yard({"double": files["double"]}) as yard:

        def broken(*_: object) -> None:
            raise ZeroDivisionError("a secret")

        monkeypatch.setattr(OnnxModel, "run", broken)
        with pytest.raises(Internal) as caught:
            yard.infer("double", {"X": X})
        assert "secret" not in caught.value.message


def test_metadata(yard: Yard) -> None:
    metadata = yard.metadata("double")
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("X", "FP32", [-1, 2])
    ]
    with pytest.raises(ModelNotFound):
        yard.metadata("nope")
    with pytest.raises(VersionNotFound):
        yard.metadata("double", 2)


def test_many_threads_and_two_models(yard: Yard) -> None:
    def ask(index: int) -> bool:
        if index % 10 == 0:
            y = yard.infer("slow", {"rounds": np.array(10), "x": ONE})["y"]
            return bool((y == 1024).all())
        x = np.full((3, 2), index, np.float32)
        return bool((yard.infer("double", {"X": x})["Y"] == 2 * index).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(2000)))


def test_a_large_input_goes_through_a_worker(yard: Yard) -> None:
    x = np.arange(1 << 20, dtype=np.float32)
    np.testing.assert_array_equal(yard.infer("id-fp32", {"x": x})["y"], x)


def test_a_deadline_stops_the_run(yard: Yard) -> None:
    before = workers(yard, "slow").stopped
    with pytest.raises(DeadlineExceeded):
        yard.infer("slow", HOURS, deadline=0.05)
    eventually(lambda: workers(yard, "slow").stopped == before + 1)
    assert workers(yard, "slow").pending == 0


def test_the_timeout_of_the_yard(files: dict[str, Path]) -> None:
    with Yard({"slow": files["slow"]}, timeout=0.05) as yard:
        with pytest.raises(DeadlineExceeded):
            yard.infer("slow", HOURS)
        yard.infer("slow", ONE_SECOND, deadline=60)


def test_too_many_calls_are_refused(files: dict[str, Path]) -> None:
    with Yard({"slow": files["slow"]}, threads=1, timeout=30) as yard:
        refused: list[Overloaded] = []
        limit = threading.Event()

        def ask() -> None:
            try:
                yard.infer("slow", HOURS, metadata={"modelyard-priority": "sheddable"}, deadline=3)
            except Overloaded as error:
                refused.append(error)
                limit.set()
            except DeadlineExceeded:
                pass

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(60)]
        for thread in threads:
            thread.start()
        assert limit.wait(30)
        assert refused[0].retry_after is not None
        for thread in threads:
            thread.join(30)
        yard.infer("slow", {"rounds": np.array(1), "x": ONE})


def test_close_waits_for_the_calls_under_way(files: dict[str, Path]) -> None:
    yard = Yard({"slow": files["slow"]})
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(yard.infer, "slow", ONE_SECOND, deadline=60)
        eventually(lambda: workers(yard, "slow").pending)
        yard.close()
        assert str(answer.result(30).served_by) == "models/slow/versions/1"
    with pytest.raises(FailedPrecondition, match="closed"):
        yard.infer("slow", ONE_SECOND)
    yard.close()
    assert not yard._turns._thread.is_alive()


def test_calls_and_a_close_at_the_same_time(files: dict[str, Path]) -> None:
    for _ in range(20):
        yard = Yard({"double": files["double"], "slow": files["slow"]})
        ended: list[str] = []

        def ask(yard: Yard = yard, ended: list[str] = ended) -> None:
            try:
                while True:
                    yard.infer("double", {"X": X})
                    yard.infer("slow", {"rounds": np.array(1), "x": ONE})
            except FailedPrecondition:
                ended.append("closed")

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.01)
        yard.close()
        for thread in threads:
            thread.join(30)
        assert ended == ["closed"] * 4


@pytest.mark.parametrize(
    ("name", "content", "kind", "text"),
    [
        ("m", None, InvalidArtifact, "m.onnx: is not there"),
        ("m", b"", InvalidArtifact, "m.onnx: is empty"),
        ("m", b"text", InvalidArtifact, "m.onnx: onnxruntime cannot load the model"),
        ("a b", b"text", InvalidName, "model name 'a b'"),
    ],
)
def test_files_that_are_no_model(
    tmp_path: Path, name: str, content: bytes | None, kind: type[ModelyardError], text: str
) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    before = threading.active_count()
    with pytest.raises(kind) as caught:
        Yard({name: str(path)})
    assert text in caught.value.message
    assert threading.active_count() == before


def test_a_provider_that_is_not_there(files: dict[str, Path]) -> None:
    with pytest.raises(InvalidArgument, match="NoSuchProvider"):
        Yard({"double": files["double"]}, providers=["NoSuchProvider"])


async def test_a_blocking_call_on_a_loop_leaves_the_loop_as_it_was(yard: Yard) -> None:
    loop = asyncio.get_running_loop()
    yard.infer("double", {"X": X})
    assert asyncio.get_running_loop() is loop
    await asyncio.sleep(0)


async def test_async(files: dict[str, Path]) -> None:
    async with AsyncYard({"double": files["double"], "slow": files["slow"]}) as yard:
        answers = await asyncio.gather(
            *(yard.infer("double", {"X": X * index}) for index in range(50)),
            yard.infer("slow", {"rounds": np.array(3), "x": ONE}),
        )
        assert [a["Y"][0, 0] for a in answers[:50]] == [2.0 * i for i in range(50)]
        assert answers[50]["y"].tolist() == [8.0] * 4
        assert [t.name for t in (await yard.metadata("slow")).outputs] == ["y"]
        with pytest.raises(ModelNotFound):
            await yard.infer("nope", {})
        with pytest.raises(DeadlineExceeded):
            await yard.infer("slow", HOURS, deadline=0.05)
    with pytest.raises(FailedPrecondition):
        await yard.infer("double", {"X": X})


async def test_async_without_a_block_and_a_cancelled_call(files: dict[str, Path]) -> None:
    yard = AsyncYard({"slow": files["slow"]})
    first = asyncio.create_task(yard.infer("slow", HOURS))
    await asyncio.sleep(0)
    first.cancel()  # It is given up while the models are loaded,
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(yard.infer("slow", HOURS))
    while yard._calls is None or not yard._calls.core.workers:
        await asyncio.sleep(0.01)
    (held,) = yard._calls.core.workers.values()
    async with asyncio.timeout(30):
        while not held.begun and not held.pending:
            await asyncio.sleep(0.01)
        second.cancel()  # and this one while it runs.
        with pytest.raises(asyncio.CancelledError):
            await second
        while held.pending:
            await asyncio.sleep(0.01)
    await yard.close()


async def test_async_files_that_are_no_model(tmp_path: Path) -> None:
    yard = AsyncYard({"m": tmp_path / "m.onnx"})
    for _ in range(2):
        with pytest.raises(InvalidArtifact, match="is not there"):
            await yard.infer("m", {})
    await yard.close()


async def test_async_closed_before_it_was_used(files: dict[str, Path]) -> None:
    yard = AsyncYard({"double": files["double"]})
    await yard.close()
    with pytest.raises(FailedPrecondition, match="closed"):
        await yard.infer("double", {"X": X})


def test_what_the_module_offers() -> None:
    assert set(embedded.__all__) == {"AsyncYard", "Yard"}
