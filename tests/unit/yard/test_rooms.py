"""What a yard tells its rooms."""

from pathlib import Path

import pytest

from modelyard import cpus
from modelyard.yard import rooms
from modelyard.yard.keeper import Room
from modelyard.yard.layout import layout
from modelyard.yard.rooms import Options


def _given(room: Room, flag: str) -> str:
    return room.argv[room.argv.index(flag) + 1]


@pytest.mark.parametrize(
    ("processors", "told", "share", "rest"),
    [(2, None, 0.01, 30.0), (16, None, 0.08, 18.75), (256, None, 1.0, 1.5), (2, 0.5, 0.5, 3.0)],
)
def test_a_shadow_takes_a_two_hundredth_of_the_processors_unless_told(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    processors: int,
    told: float | None,
    share: float,
    rest: float,
) -> None:
    monkeypatch.setattr(cpus, "available", lambda: processors)
    where, options = layout(tmp_path), Options(shadow_share=told)
    assert float(_given(rooms.shadow(where, options), "--share")) == share
    assert float(_given(rooms.shadow_hosts(where, options), "--retry-first")) == rest
