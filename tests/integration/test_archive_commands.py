"""A yard with redaction: nothing that must not be kept is anywhere; the archive tells the rest."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from modelyard.cli.route_yaml import parse
from modelyard.redis_client import connect
from tests.kit.classifiers import classifier, draw
from tests.kit.yard import eventually, running_yard

SECRET = "4111-1111-1111-1111"


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    rules = folder / "rules.yaml"
    rules.write_text(
        "- metadata: {x-card: drop, x-user: hash}\n- models: [secret]\n  inputs: {x: drop}"
    )
    key = folder / "key"
    key.write_text("key")
    flags = ("--redaction", str(rules), "--redaction-key", str(key))
    with running_yard(folder / "data", *flags) as yard:
        for model in ("m", "secret"):
            yard.client.register(model, classifier(folder, model), wait=True)
            yard.client.replace_route(model, parse("tap: {sample: 1.0}"), note="record all")
        yield yard


@pytest.fixture(scope="module")
def asked(yard):
    """The ids of twenty calls that are in the archive, some with their truth."""
    rng, ids = np.random.default_rng(0), []
    sent = {"x-card": SECRET, "x-user": "anna-the-user"}
    for n in range(20):
        answer = yard.client.infer("m", {"x": draw(rng)}, metadata=sent)
        ids.append(answer.request_id)
        if n % 2:
            wrong = (int(answer["label"][0]) + (n % 4 == 1)) % 3
            event = yard.client.feedback("m", answer.request_id, {"label": [wrong]})
            # Its writer, and the how-manieth of theirs.
            assert re.fullmatch(r"[0-9a-f]{16}-[1-9][0-9]*", event)
    marked = np.float32([[1234.5678, 8765.4321, 1.0, 2.0]])
    yard.client.infer("secret", {"x": marked}, metadata=sent)
    eventually(lambda: len(query(yard, "m")) == 20 and len(query(yard, "secret")) == 1, 60)
    eventually(lambda: sum("truth" in row for row in query(yard, "m")) == 10, 60)
    return ids


def archive(yard):
    return ("--archive", str(yard.layout.archive))


def query(yard, model, *flags):
    done = yard.cli("archive", "query", model, "--limit", "100", "--json", *archive(yard), *flags)
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_what_must_not_be_kept_is_in_no_file_and_not_in_redis(yard, asked):
    needles = [SECRET.encode(), b"anna-the-user", np.float32(1234.5678).tobytes()]
    for path in yard.layout.data.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not [needle for needle in needles if needle in data], path
    for path in yard.layout.archive.rglob("*.parquet"):
        # Parquet packs its columns: look at what it unpacks to, too.
        text = repr(pq.read_table(path).to_pylist()).encode()
        assert not [needle for needle in (*needles[:2], b"1234.5") if needle in text], path
    redis = connect(f"unix://{yard.layout.events_socket}")
    async for key in redis.scan_iter():
        dumped = repr(await redis.xrange(key)) if await redis.type(key) == b"stream" else ""
        assert SECRET not in dumped
        assert "anna-the-user" not in dumped
    await redis.aclose()


def test_calls_are_asked_for_by_what_became_of_them(yard, asked):
    assert [row["request_id"] for row in query(yard, "m")] == asked
    assert query(yard, "m", "--failed") == []
    assert len(query(yard, "m", "--answered", "--version", "1", "--since", "1h")) == 20
    assert query(yard, "m", "--until", "1h") == []
    assert len(query(yard, "m", "--disagreeing")) == 5
    shown = yard.cli("archive", "query", "m", "--limit", "3", *archive(yard)).stdout
    assert asked[0] in shown
    assert "primary" in shown


def test_sets_are_exported(yard, asked, tmp_path):
    for name in ("set.parquet", "set.ndjson", "set.npz"):
        done = yard.cli("archive", "export", "m", "--to", str(tmp_path / name), *archive(yard))
        assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "set.parquet")
    assert table.num_rows == 20
    assert len((tmp_path / "set.ndjson").read_text().splitlines()) == 20
    held = np.load(tmp_path / "set.npz")
    assert held["in.x"].shape == (20, 4)
    assert held["out.label"].shape == (20,)
    assert "truth.label" not in held
    done = yard.cli(
        *("archive", "export", "m", "--labelled", "--to", str(tmp_path / "known.npz")),
        *archive(yard),
    )
    known = np.load(tmp_path / "known.npz")
    assert known["truth.label"].shape == known["out.label"].shape == (10,)
    assert (known["truth.label"] != known["out.label"]).sum() == 5
    wrong = yard.cli("archive", "export", "m", "--to", str(tmp_path / "set.csv"), *archive(yard))
    assert wrong.returncode == 2


def test_one_call_is_told_whole_and_why_its_version_was_live(yard, asked):
    done = yard.cli("archive", "call", "m", asked[1], *archive(yard))
    assert done.returncode == 0, done.stderr
    told = done.stdout
    assert "answered by version 1 (primary), digest sha256:" in told
    assert "primary: models/m/versions/1 on " in told
    assert "truth" in told
    assert "record all" in told
    as_json = json.loads(
        yard.cli("archive", "call", "m", asked[1], "--json", *archive(yard)).stdout
    )
    assert as_json["version"] == 1
    assert as_json["history"]
    absent = yard.cli("archive", "call", "m", "nobody", *archive(yard))
    assert absent.returncode == 1
    assert "has no call 'nobody'" in absent.stderr
