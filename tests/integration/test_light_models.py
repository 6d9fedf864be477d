"""Every light model of the onnx package gives its shipped output through a whole yard."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from tests.integration.test_host_models import LIGHT_MODELS, light_case
from tests.kit.yard import Yard, running_yard


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    with running_yard(tmp_path_factory.mktemp("light") / "yard") as yard:
        yield yard


@pytest.mark.parametrize("name", LIGHT_MODELS)
def test_light_model(yard: Yard, name: str) -> None:
    path, feeds, expected = light_case(name)
    yard.client.register(name, path, wait=True)
    answer = yard.client.infer(name, feeds, deadline=60.0)
    assert set(answer) == set(expected)
    for output, want in expected.items():
        np.testing.assert_allclose(answer[output], want, rtol=1e-3, atol=1e-5)
    # One model at a time, so that a small machine holds them.
    yard.client.remove_label(name, "live")


def test_a_message_beyond_the_limit_is_refused_as_such(yard: Yard) -> None:
    options = (("grpc.max_send_message_length", -1),)
    with grpc.insecure_channel(yard.address, options=options) as channel:
        send = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            send(b"\x3a\x80\x80\x80\x50" + bytes(160 << 20), timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
