"""What a yard tells its rooms."""

from pathlib import Path

from modelyard.yard import rooms
from modelyard.yard.keeper import Room
from modelyard.yard.layout import layout
from modelyard.yard.rooms import Options


def _given(room: Room, flag: str) -> str:
    return room.argv[room.argv.index(flag) + 1]


def test_candidates_rest_unless_told(tmp_path: Path) -> None:
    where = layout(tmp_path)
    assert float(_given(rooms.shadow(where, Options()), "--share")) == 0.1
    assert float(_given(rooms.shadow(where, Options(shadow_share=0.5)), "--share")) == 0.5
