"""The command line on a real yard, as a person or a script uses it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelyard.client import AsyncClient, Progress
from modelyard.errors import InvalidArtifact, StaleEtag, VersionInUse, VersionNotFound
from modelyard.names import VersionName
from tests.kit.scale import scale
from tests.kit.yard import Yard, cli, eventually, running_yard

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    with running_yard(tmp_path_factory.mktemp("yard")) as yard:
        yield yard


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A model's name for this test alone."""
    return re.sub(r"[^a-z0-9]+", "-", request.node.name)


def done(yard: Yard, *arguments: str, input: str | None = None) -> str:
    result = yard.cli(*arguments, input=input)
    assert result.returncode == 0, result.stderr
    return result.stdout


def read(yard: Yard, *arguments: str) -> Any:
    return json.loads(done(yard, *arguments, "--json"))


def refused(yard: Yard, *arguments: str, code: int = 1) -> str:
    result = yard.cli(*arguments)
    assert result.returncode == code, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    return result.stderr


def test_from_a_file_to_an_answer(yard: Yard, model: str, tmp_path: Path) -> None:
    printed = done(yard, "register", model, str(scale(tmp_path, 2)), "--wait", "--meta", "a=b")
    assert re.fullmatch(rf"models/{model}/versions/1 sha256:[0-9a-f]{{64}}\n", printed)

    np.save(tmp_path / "x.npy", np.array([[1, 2]], np.float32))
    answer = done(yard, "infer", model, "--input", f"X={tmp_path / 'x.npy'}")
    assert "Y  FP32 [1, 2]\n[[2. 4.]]\n" in answer
    assert f"served by models/{model}/versions/1 (primary)" in answer

    inline = read(yard, "infer", model, "-i", "X=[[1,2],[3,4]]", "--version", "live")
    assert inline["outputs"]["Y"]["data"] == [[2, 4], [6, 8]]
    assert inline["served_by"] == f"models/{model}/versions/1"

    (version,) = read(yard, "versions", model)
    assert version["metadata"] == {"a": "b"}
    assert version["labels"] == ["live"]
    assert version["hosts"][0]["state"] == "STATE_SERVING"
    assert model in done(yard, "models")
    assert "1 of 1" in done(yard, "versions", model)


def test_progress_is_on_standard_error(yard: Yard, model: str, tmp_path: Path) -> None:
    result = yard.cli("register", model, str(scale(tmp_path, 2)), "--wait")

    assert result.stdout.count("\n") == 1
    assert f"{model}, scale-2.onnx: upload " in result.stderr
    assert f"{model}, scale-2.onnx: serving" in result.stderr


def test_a_label_moves_and_goes_back(yard: Yard, model: str, tmp_path: Path) -> None:
    for factor in (2, 3):
        done(yard, "register", model, str(scale(tmp_path, factor)), "--wait")
    assert read(yard, "infer", model, "-i", "X=[[1,1]]")["outputs"]["Y"]["data"] == [[2, 2]]

    assert done(yard, "label", model, "live", "2", "--note", "better") == (
        f"models/{model}/labels/live 2\n"
    )
    assert read(yard, "infer", model, "-i", "X=[[1,1]]")["outputs"]["Y"]["data"] == [[3, 3]]
    previous = read(yard, "infer", model, "-i", "X=[[1,1]]", "--version", "previous")
    assert previous["served_by"] == f"models/{model}/versions/1"

    assert done(yard, "rollback", model) == f"models/{model}/labels/live 1\n"
    assert read(yard, "infer", model, "-i", "X=[[1,1]]")["outputs"]["Y"]["data"] == [[2, 2]]
    assert "NO_HISTORY" in refused(yard, "rollback", model)

    changes = done(yard, "history", model)
    assert f"{model}: live → 2" in changes
    assert "better" in changes
    assert f"{model}: live back to 1" in changes


def test_register_with_a_label_hands_over(yard: Yard, model: str, tmp_path: Path) -> None:
    done(yard, "register", model, str(scale(tmp_path, 2)), "--wait")
    done(yard, "register", model, str(scale(tmp_path, 3)), "--label", "live")

    # Without --wait: a label that is served moves only when the new version serves.
    answer = read(yard, "infer", model, "-i", "X=[[1,1]]")
    assert answer["served_by"] == f"models/{model}/versions/2"


def test_the_same_file_is_the_same_version(yard: Yard, model: str, tmp_path: Path) -> None:
    path = str(scale(tmp_path, 2))
    first = done(yard, "register", model, path)
    assert done(yard, "register", model, path) == first
    assert "/versions/2 " in done(yard, "register", model, path, "--allow-duplicate")


def test_external_data_goes_along(yard: Yard, model: str, tmp_path: Path) -> None:
    done(yard, "register", model, str(scale(tmp_path, 5, external=True)), "--wait")

    (version,) = read(yard, "versions", model)
    assert [file["path"] for file in version["files"]] == ["scale-5.onnx", "scale-5.data"]
    assert read(yard, "infer", model, "-i", "X=[[1,2]]")["outputs"]["Y"]["data"] == [[5, 10]]


def test_a_host_that_fails_says_why(yard: Yard, model: str, tmp_path: Path) -> None:
    golden = tmp_path / "golden.npz"
    one = np.ones((1, 2), np.float32)
    np.savez(golden, **{"in.X": one, "out.Y": one * 9})
    complaint = refused(
        yard, "register", model, str(scale(tmp_path, 2)), "--golden", str(golden), "--wait"
    )

    assert complaint.splitlines()[-1].startswith("error: VERSION_NOT_SERVING: ")
    assert "Y" in complaint.splitlines()[-1]
    assert "failed" in done(yard, "versions", model)
    assert "failed" in done(yard, "hosts", model)


def test_load_unload_delete(yard: Yard, model: str, tmp_path: Path) -> None:
    for factor in (2, 3):
        done(yard, "register", model, str(scale(tmp_path, factor)), "--wait")
    assert "VERSION_IN_USE" in refused(yard, "delete", model, "2")

    done(yard, "unload", model, "2")
    assert eventually(lambda: not [h for h in yard.client.hosts(model) if h.version[-1] == "2"])
    done(yard, "delete", model, "2")
    assert [version["number"] for version in read(yard, "versions", model)] == ["1"]

    done(yard, "register", model, str(scale(tmp_path, 4)))
    done(yard, "load", model, "3", "--wait")
    assert read(yard, "infer", model, "-i", "X=[[1,1]]", "--version", "3")["outputs"]


def test_routes(yard: Yard, model: str, tmp_path: Path) -> None:
    for factor in (2, 3):
        done(yard, "register", model, str(scale(tmp_path, factor)), "--wait")
    assert done(yard, "route", model).startswith("default: {label: live}\n")

    whole = "default: {version: 2}\ndeadline: 1.5s\nretry: {max_attempts: 3}\n"
    printed = done(yard, "route", model, "-f", "-", input=whole)
    assert printed.startswith(whole)
    assert read(yard, "infer", model, "-i", "X=[[1,1]]")["outputs"]["Y"]["data"] == [[3, 3]]

    # What is printed holds an etag, so a stale copy cannot replace a newer route.
    done(yard, "route", model, "-f", "-", input=printed)
    stale = yard.cli("route", model, "-f", "-", input=printed)
    assert (stale.returncode, "STALE_ETAG" in stale.stderr) == (1, True)

    (tmp_path / "route.yaml").write_text("default: {label: live}\nfallbak: []\n")
    complaint = refused(yard, "route", model, "-f", str(tmp_path / "route.yaml"))
    assert "INVALID_ROUTE: unknown field 'fallbak'" in complaint

    assert done(yard, "route", model, "--reset").startswith("default: {label: live}\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["versions", "nothing"], "error: MODEL_NOT_FOUND: "),
        (["infer", "nothing", "-i", "X=[1]"], "error: MODEL_NOT_FOUND: "),
        (["label", "nothing", "live", "1"], "error: MODEL_NOT_FOUND: "),
        (["versions", "no/name"], "error: INVALID_NAME: "),
        (["label", "nothing", "NO", "1"], "error: INVALID_NAME: "),
    ],
)
def test_precise_errors(yard: Yard, arguments: list[str], complaint: str) -> None:
    assert refused(yard, *arguments).startswith(complaint)


@pytest.mark.parametrize(
    "arguments",
    [
        ["register", "m", "no-such.onnx"],
        ["register", "m", "pyproject.toml", "--meta", "novalue"],
        ["infer", "m"],
        ["infer", "m", "-i", "X"],
        ["infer", "m", "-i", "X=no-such.npy"],
        ["infer", "m", "-i", "X=[1"],
        ["label", "m", "live", "zero"],
        ["nothing"],
    ],
)
def test_usage_errors(yard: Yard, arguments: list[str]) -> None:
    refused(yard, *arguments, code=2)


def test_a_file_that_is_no_model(yard: Yard, model: str, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")

    complaint = refused(yard, "register", model, str(tmp_path / "text.onnx"))

    assert complaint.splitlines()[-1].startswith("error: INVALID_ARTIFACT: ")
    assert model not in done(yard, "models")


def test_nobody_answers() -> None:
    result = cli("models", address="127.0.0.1:1")

    assert result.returncode == 3
    assert result.stderr.startswith("error: HOST_GONE: no yard answers at 127.0.0.1:1")


def test_top_shows_calls(yard: Yard, model: str, tmp_path: Path) -> None:
    done(yard, "register", model, str(scale(tmp_path, 2)), "--wait")
    looks = yard.client.traffic(0.2)
    next(looks)
    for _ in range(20):
        yard.client.infer(model, {"X": np.ones((1, 2), np.float32)})

    def calls() -> int:
        return sum(row.succeeded for row in next(looks).traffic if model in row.version)

    assert eventually(calls) > 0
    look = json.loads(done(yard, "top", "--once", "--json", "--interval", "0.1"))
    assert look["interval"]
    assert "calls/s" in done(yard, "top", "--once", "--interval", "0.1")


async def test_the_sdk_on_a_real_yard(yard: Yard, model: str, tmp_path: Path) -> None:
    stages: list[Progress] = []
    async with AsyncClient(yard.address) as client:
        done = await client.register(
            model, scale(tmp_path, 2), label="canary", wait=True, progress=stages.append
        )
        assert done.name == VersionName(model, 1)
        assert (done.created, done.label) == (True, "canary")
        assert stages[0].stage == "upload"
        assert stages[-1].stage == "serving"

        answers = [
            answer["Y"][0, 0]
            async for answer in client.stream(
                model,
                [{"X": np.full((1, 2), number, np.float32)} for number in range(3)],
                version="canary",
            )
        ]
        assert answers == [0, 2, 4]

        with pytest.raises(StaleEtag):
            await client.label(model, "canary", 1, etag="0")
        with pytest.raises(VersionNotFound):
            await client.label(model, "canary", 7)
        with pytest.raises(VersionInUse):
            await client.delete(model, 1)
        with pytest.raises(InvalidArtifact):
            await client.register(model, tmp_path / "none.onnx")
        await client.remove_label(model, "canary")
        assert [change.note for change in await client.history(model)] == ["", "", ""]
        assert (await client.status()).revision > 0
