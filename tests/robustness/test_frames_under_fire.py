"""Mutated frames at both ends of the local lane: a slice of `python -m benchmarks.fuzz`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fuzz import gateway_side, host_side
from benchmarks.fuzz.host_side import Found
from benchmarks.fuzz.mutations import LARGEST
from modelyard import frames
from tests.kit import graphs
from tests.kit.host import Host
from tests.kit.lanes import framed_host, frames_address


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    path = tmp_path / "model.onnx"
    path.write_bytes(graphs.identity().SerializeToString())
    limit = ("--max-message-bytes", str(LARGEST))
    with framed_host(path, tmp_path, arguments=limit) as host:
        yield host


async def test_a_host_under_fire_serves_who_is_beside(host: Host) -> None:
    found = Found()
    await host_side.attack(frames_address(host), 3000, 7, found)
    assert found.faults == []
    assert found.honest > 0
    # It was reached, and in many ways.
    assert found.frames.keys() >= {frames.HELLO, frames.ANSWER, frames.STATUS, frames.CLOSE}
    assert len(found.ends) > 10
    assert "Traceback" not in host.errors.read_text()
    assert host.terminate() == 0


async def test_a_gateway_under_fire_gives_each_call_its_own() -> None:
    found = Found()
    await gateway_side.attack(3000, 7, found)
    assert found.faults == []
    assert found.honest > 0
    assert len(found.ends) > 10
