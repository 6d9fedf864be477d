"""Which front is taken, and what is said of it."""

import importlib.util
import re
import sys

import pytest

import gateway.__main__ as main
from gateway.fronts import envoy
from gateway.settings import GatewaySettings
from modelyard.errors import FailedPrecondition


def settings(front: str) -> GatewaySettings:
    return GatewaySettings.model_validate({"registry": "unix:/r", "front": front})


@pytest.mark.parametrize(
    ("front", "taken"),
    [("auto", "http2"), ("http2", "http2"), ("envoy", "envoy"), ("grpcio", "grpcio")],
)
def test_a_front_is_chosen(monkeypatch, front: str, taken: str) -> None:
    monkeypatch.setattr(envoy, "missing", lambda: "")
    assert main._front(settings(front)) == taken


def test_a_front_that_is_wanted_and_missing_is_told(monkeypatch, capsys) -> None:
    monkeypatch.setattr(envoy, "missing", lambda: "pyvoy is not installed")
    with pytest.raises(FailedPrecondition, match="pyvoy is not installed"):
        main._front(settings("envoy"))
    assert main.main(["--registry", "unix:/r", "--front", "envoy"]) == 2
    assert "pyvoy is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["pyvoy", "envoy", "find_libpython"])
def test_what_is_not_installed_is_named(monkeypatch, module: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else find(name)
    )
    assert module in envoy.missing()
    assert "modelyard[envoy]" in envoy.missing()


def test_another_platform(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "darwin" in envoy.missing()


@pytest.mark.parametrize(
    ("module", "platform", "told"),
    [("envoy", "linux", r"modelyard\[envoy\]"), ("", "darwin", "darwin")],
)
def test_workers_need_envoy(monkeypatch, capsys, module: str, platform: str, told: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else find(name)
    )
    flags = ["--registry", "unix:/r", "--front", "grpcio", "--workers", "2"]
    assert main.main(flags) == 2
    error = capsys.readouterr().err
    assert "workers 2: " in error
    assert re.search(told, error)
