"""What runs inside Envoy, where Envoy does not answer."""

from pathlib import Path

from gateway.fronts.envoy.admin import Admin
from gateway.fronts.envoy.config import Files
from gateway.fronts.envoy.inside import Inside
from gateway.settings import GatewaySettings


async def test_a_drain_goes_on_where_envoy_answers_no_more(tmp_path: Path) -> None:
    inside = Inside()
    inside._files = Files(tmp_path, Path())
    inside._admin = Admin(inside._files.admin)
    inside._settings = GatewaySettings.model_validate({"registry": "unix:/r"})
    await inside.leave()
    await inside.drained()
