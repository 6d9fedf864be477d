"""What commands print."""

from datetime import timedelta

import pytest

from modelyard.cli.changes import described
from modelyard.cli.output import short, size
from modelyard.cli.route_yaml import duration, duration_text
from modelyard.registry.v1 import change_pb2


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (5 << 40, "5120.0 GiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_digests_are_short() -> None:
    assert short("sha256:" + "ab" * 32) == "abababababab"


@pytest.mark.parametrize("text", ["200ms", "1.5s", "120s", "50us", "0.5ms"])
def test_durations(text: str) -> None:
    assert duration("deadline", duration_text(duration("deadline", text))) == duration("x", text)


def test_long_units() -> None:
    assert duration("deadline", "2min") == timedelta(minutes=2)
    assert duration_text(timedelta(minutes=2)) == "120s"


def test_every_change_has_a_line() -> None:
    name = "models/digits/versions/3"
    label = "models/digits/labels/live"
    changes = {
        "digits: version 3 registered": change_pb2.Change(
            version_registered={"version": {"name": name, "number": 3}}
        ),
        "digits: version 3 deleted": change_pb2.Change(version_deleted={"name": name}),
        "digits: version 3 to be loaded": change_pb2.Change(version_loaded={"name": name}),
        "digits: version 3 to be unloaded": change_pb2.Change(version_unloaded={"name": name}),
        "digits: live → 3": change_pb2.Change(label_moved={"name": label, "version": 3}),
        "digits: live back to 3": change_pb2.Change(
            label_rolled_back={"name": label, "version": 3}
        ),
        "digits: live removed": change_pb2.Change(label_removed={"name": label}),
        "digits: route replaced": change_pb2.Change(
            route_replaced={"route": {"name": "models/digits/route"}}
        ),
        "digits: route removed": change_pb2.Change(route_removed={"name": "models/digits/route"}),
        "another change": change_pb2.Change(),
    }

    assert {described(change): line for line, change in changes.items()} == {
        line: line for line in changes
    }
    assert len(changes) == len(change_pb2.Change.DESCRIPTOR.oneofs[0].fields) + 1
