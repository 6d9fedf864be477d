"""The manifests are whole, refer to what is there, and use flags that the rooms know."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "kubernetes"


def documents() -> list[dict[str, Any]]:
    """Every resource of every file."""
    return [
        document
        for file in sorted(FOLDER.glob("*.yaml"))
        for document in yaml.safe_load_all(file.read_text())
    ]


def rooms() -> list[dict[str, Any]]:
    """The containers that run our image."""
    return [
        container
        for document in documents()
        if document["kind"] in ("Deployment", "StatefulSet")
        for container in document["spec"]["template"]["spec"]["containers"]
        if container["image"].startswith("modelyard:")
    ]


def settings_of(room: str) -> type[BaseSettings]:
    """The settings class that a room's own settings module defines."""
    module = importlib.import_module(f"{room}.settings")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, BaseSettings)
        and value.__module__ == module.__name__
    )
    return found


def test_each_resource_is_named_once() -> None:
    names = [(d["apiVersion"], d["kind"], d["metadata"]["name"]) for d in documents()]
    assert len(names) == len(set(names))


def test_services_select_pods_that_are_there() -> None:
    pods = [
        d["spec"]["template"]["metadata"]["labels"]
        for d in documents()
        if d["kind"] in ("Deployment", "StatefulSet")
    ]
    for service in (d for d in documents() if d["kind"] == "Service"):
        selector = service["spec"]["selector"].items()
        assert any(selector <= labels.items() for labels in pods), service["metadata"]["name"]


def test_workloads_select_their_own_pods() -> None:
    for workload in (d for d in documents() if d["kind"] in ("Deployment", "StatefulSet")):
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_every_room_is_deployed() -> None:
    assert {c["command"][-1] for c in rooms()} == {
        "gateway",
        "services.archive",
        "services.inference",
        "services.registry",
        "services.shadow",
    }


@pytest.mark.parametrize("container", rooms(), ids=lambda c: str(c["name"]))
def test_flags_and_variables_are_known(container: dict[str, Any]) -> None:
    settings = settings_of(container["command"][-1])
    known = set(settings.model_fields)
    flags = {a.partition("=")[0].removeprefix("--").replace("-", "_") for a in container["args"]}
    assert flags <= known, f"unknown: {sorted(flags - known)}"
    prefix = settings.model_config["env_prefix"]
    variables = {e["name"] for e in container.get("env", [])}
    assert all(v.removeprefix(prefix).lower() in known for v in variables), variables


@pytest.mark.parametrize("container", rooms(), ids=lambda c: str(c["name"]))
def test_probes_and_listening_agree_on_the_port(container: dict[str, Any]) -> None:
    listen = next(a for a in container["args"] if a.startswith("--listen="))
    port = int(listen.rpartition(":")[2])
    assert container["readinessProbe"]["grpc"]["port"] == port
    assert port in {p["containerPort"] for p in container["ports"]}


def test_the_image_copies_what_is_there() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (.+) \S+$", text, flags=re.M)
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source
