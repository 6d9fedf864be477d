"""The gRPC of Node.js, unmodified: the cases that gRPC's interoperability tests have for calls."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode
from onnx import save

from tests.kit import graphs
from tests.kit.classifiers import classifier
from tests.kit.gateway import FRONTS
from tests.kit.yard import Yard, running_yard

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / ".tools" / "node" / "client.js"
MODEL, SLOW = "scale", "slow"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not CLIENT.with_name("node_modules").exists(),
    reason="no client here: `.venv/bin/python tools/node_client.py` tells why",
)


@pytest.fixture(scope="module", params=FRONTS)
def yard(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Yard]:
    folder = tmp_path_factory.mktemp("node")
    save(graphs.scale(), str(folder / "scale.onnx"))
    with running_yard(folder / "data", "--front", request.param) as running:
        running.client.register(MODEL, folder / "scale.onnx", label="live", wait=True)
        slow = classifier(folder, "slow", rounds=1_000_000)
        running.client.register(SLOW, slow, label="live", wait=True)
        yield running


@pytest.fixture(scope="module")
def seen(yard: Yard) -> dict[str, Any]:
    """What each case saw."""
    done = subprocess.run(
        ["node", str(CLIENT), yard.address, str(ROOT / "protos"), MODEL, SLOW],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def code(status: StatusCode) -> int:
    number: int = status.value[0]
    return number


def test_calls_with_nothing_and_with_much(seen: dict[str, Any]) -> None:
    assert seen["empty"] == {"code": 0, "live": True}
    assert seen["large"] == {"code": 0, "bytes": 16 << 20}
    assert seen["compressed"] == {"code": 0, "bytes": 4 * 4 << 12}


def test_an_answer_says_who_gave_it(seen: dict[str, Any]) -> None:
    found = seen["infer"]
    assert (found["code"], found["id"], found["y"]) == (0, "a", 2.0)
    assert found["told"]["modelyard-served-by"] == f"models/{MODEL}/versions/1"
    assert found["told"]["modelyard-attempt"] == "primary"


def test_metadata_both_ways(seen: dict[str, Any]) -> None:
    assert seen["metadata"] == {"code": 0, "id": "from-node"}


def test_a_status_comes_with_its_message_and_details(seen: dict[str, Any]) -> None:
    found = seen["status"]
    assert found["code"] == code(StatusCode.NOT_FOUND)
    assert "none-such" in found["message"]
    assert found["details"] == 1


def test_calls_that_end_early(seen: dict[str, Any]) -> None:
    assert seen["deadline"]["code"] == code(StatusCode.DEADLINE_EXCEEDED)
    assert seen["cancelled"]["code"] == code(StatusCode.CANCELLED)


def test_streams(seen: dict[str, Any]) -> None:
    assert seen["stream"] == {"ids": [f"s-{n}" for n in range(20)], "errors": [], "code": 0}
    wrong = seen["stream with an error"]
    assert (wrong["ids"], wrong["code"]) == (["s-0", "s-1", "s-2"], 0)
    assert "none-such" in wrong["errors"][0]
    cancelled = seen["stream cancelled after its first answer"]
    assert cancelled == {"ids": ["s-0"], "errors": [], "code": code(StatusCode.CANCELLED)}
