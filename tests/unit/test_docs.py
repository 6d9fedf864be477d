"""What the docs show can be done as it stands there."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from modelyard import redaction
from modelyard.catalog import Catalog, Label, Model, Signature, Tensor, Version
from modelyard.catalog.check import check
from modelyard.catalog.convert_route import route_from
from modelyard.catalog.model import frozen
from modelyard.cli import plan
from modelyard.cli.route_yaml import parse
from modelyard.names import VersionName

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = ("live", "previous", "canary", "small", "eu", "candidate", "big", "old", "acme")


def catalog():
    signature = Signature((), (Tensor("probabilities", "FP32", (2,)),))
    names = [VersionName("m", n) for n in range(1, len(LABELS) + 1)]
    versions = {v.number: Version(v, "sha256:0", (), signature, NOW) for v in names}
    labels = {name: Label(name, n + 1, 1, NOW) for n, name in enumerate(LABELS)}
    return Catalog(1, frozen({"m": Model("m", NOW, frozen(versions), frozen(labels))}))


def blocks(*files):
    """The YAML of Markdown files: fenced, or given to a command."""
    found = []
    for file in files:
        text = (ROOT / file).read_text()
        for match in re.finditer(r"```yaml\n(.*?)```|<<'YAML'\n(.*?)\nYAML", text, re.DOTALL):
            found.append(pytest.param(match[1] or match[2], id=f"{file}:{match.start()}"))
    return found


@pytest.mark.parametrize("text", blocks("README.md", "docs/routes.md"))
def test_routes_of_the_docs_are_routes(text):
    message = parse(text)
    message.name = "models/m/route"
    check(catalog(), route_from(message))


@pytest.mark.parametrize("text", blocks("docs/archive.md"))
def test_rules_of_the_docs_are_rules(text):
    assert redaction.parse(yaml.safe_load(text))


def test_gates_of_the_docs_are_gates():
    text = (ROOT / "docs/shadow.md").read_text()
    shown = re.findall(r"--gate (\S+)", text)
    assert len(shown) >= 2
    for gate in shown:
        plan.gate(gate)
