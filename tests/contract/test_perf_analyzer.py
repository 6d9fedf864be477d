"""NVIDIA's perf_analyzer, unmodified, against both fronts: every call is answered and counted."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import save

from modelyard.client import Client
from tests.kit.gateway import FRONTS, Gateway, running_gateway
from tests.kit.graphs import scale
from tests.kit.yard import Yard, eventually, running_yard

PROGRAM = Path(__file__).resolve().parents[2] / ".tools" / "perf_analyzer" / "perf_analyzer"
MODEL = "scale"
# In each of its windows. Not --request-count: it starts that many calls, forgets those that were
# answered before it looked for the first time, and then waits for all of them, for ever.
CALLS = 200
# It looks for three windows that differ by less than this: any do.
PERCENT = 10_000

# Continuous integration must have it; elsewhere a machine may be unable to run it.
pytestmark = pytest.mark.skipif(
    not PROGRAM.exists() and not os.environ.get("CI"),
    reason="no perf_analyzer here: `.venv/bin/python tools/perf_analyzer.py` tells why",
)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    folder = tmp_path_factory.mktemp("perf-analyzer")
    save(scale(), str(folder / "scale.onnx"))
    with running_yard(folder / "data", "--front", "grpcio") as running:
        running.client.register(MODEL, folder / "scale.onnx", label="live", wait=True)
        yield running


@pytest.fixture(scope="module", params=FRONTS)
def gateway(
    yard: Yard, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    log = tmp_path_factory.mktemp(request.param) / "gateway.log"
    flags = ("--front", request.param)
    with (
        running_gateway(yard.layout.registry_socket, log, *flags) as running,
        Client(running.address) as client,
    ):
        eventually(lambda: client.ready(MODEL))
        yield running


@pytest.mark.parametrize(
    ("mode", "flags"),
    [
        ("sync", ("--sync", "--concurrency-range", "1")),
        ("async", ("--async", "--concurrency-range", "4")),
        ("streaming", ("--async", "--streaming", "--concurrency-range", "4")),
        ("request rate", ("--async", "--request-rate-range", "200")),
    ],
)
def test_perf_analyzer_runs_unmodified(gateway: Gateway, mode: str, flags: tuple[str, ...]) -> None:
    done = subprocess.run(
        [
            *(str(PROGRAM), "-m", MODEL, "-i", "grpc", "-u", gateway.address, "-b", "1"),
            *("--shape", "x:1,4", "--request-count", str(CALLS), *flags),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{mode}: {said}"
    assert "error" not in said.lower(), f"{mode}: {said}"
    counts = [
        int(found[1])
        for what in ("Request count", "Inference count", "Successful request count")
        if (found := re.search(rf"{what}: (\d+)", said))
    ]
    # The client's own count, then the server's statistics of what it was sent.
    assert len(counts) == 3, f"{mode}: {said}"
    assert counts[0] >= CALLS, f"{mode}: {said}"
    # It asks for the statistics while calls go on, and those of that time are in one count only.
    assert min(counts[1:]) >= 0.8 * counts[0], f"{mode}: {said}"
