"""One trace over every hop: the caller's, the gateway's, the host's; and the registry's."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.kit.collector import INFER, PARENT, TRACE, Collector, collecting, traced_call
from tests.kit.scale import scale
from tests.kit.yard import LANES, Yard, eventually, running_yard


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[Collector, str]]:
    with collecting() as made:
        yield made


@pytest.fixture(scope="module", params=LANES)
def yard(
    tmp_path_factory: pytest.TempPathFactory,
    collector: tuple[Collector, str],
    request: pytest.FixtureRequest,
) -> Iterator[Yard]:
    folder: Path = tmp_path_factory.mktemp("traces")
    collector[0].spans.clear()
    with running_yard(folder / "yard", "--otlp-endpoint", collector[1], lane=request.param) as yard:
        yard.client.register("scale", scale(folder, 2.0), wait=True)
        yield yard


def test_one_trace_over_every_hop(yard: Yard, collector: tuple[Collector, str]) -> None:
    spans, _ = collector
    traced_call(yard.address, "scale")
    host = eventually(lambda: spans.of("host", TRACE))[0]
    at_gateway = eventually(
        lambda: [s for s in spans.of("gateway", TRACE) if s.parent_span_id.hex() == PARENT]
    )[0]
    assert at_gateway.name == INFER
    assert host.name == INFER
    # The host's span hangs below the attempt's, and that below the call's.
    attempt = next(s for s in spans.of("gateway", TRACE) if s.span_id == host.parent_span_id)
    assert attempt.name == "attempt primary"
    assert attempt.parent_span_id == at_gateway.span_id
    told = {a.key: a.value.string_value for a in at_gateway.attributes}
    assert told["modelyard.served_by"] == "models/scale/versions/1"
    assert told["modelyard.request_id"]


def test_a_failed_call_says_so_in_its_span(yard: Yard, collector: tuple[Collector, str]) -> None:
    spans, _ = collector
    with pytest.raises(grpc.RpcError):
        traced_call(yard.address, "unknown")
    failed = eventually(lambda: [s for s in spans.of("gateway") if s.status.code == 2])[0]
    assert "not found" in failed.status.message


def test_the_registry_makes_spans(yard: Yard, collector: tuple[Collector, str]) -> None:
    spans, _ = collector
    yard.client.models()
    assert eventually(
        lambda: [s for s in spans.of("registry") if s.name.endswith("RegistryService/ListModels")]
    )
