"""The tap in a running yard: calls are in the event log, whole, and never wait for it."""

import os
import signal

import numpy as np
import pytest

from modelyard.errors import ModelyardError
from modelyard.gateway.v1 import gateway_service_pb2 as gw
from modelyard.gateway.v1 import gateway_service_pb2_grpc as gw_grpc
from modelyard.gateway.v1 import route_pb2
from modelyard.inference.v2 import open_inference_pb2 as oip
from tests.kit.events import logged
from tests.kit.scale import scale
from tests.kit.yard import eventually, running_yard

X = {"X": np.float32([[1.0, 2.0]])}


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("yard")
    with running_yard(folder / "data") as yard:
        yard.client.register("m", scale(folder, 2.0), wait=True)
        yield yard


def tap(yard, sample):
    route = route_pb2.Route()
    route.tap.sample = sample
    yard.client.replace_route("m", route)


def status(yard):
    import grpc

    with grpc.insecure_channel(yard.address) as channel:
        return gw_grpc.GatewayServiceStub(channel).GetStatus(gw.GetStatusRequest()).event_log


async def test_a_recorded_call_tells_who_answered_what_and_why(yard):
    tap(yard, 1.0)
    before = status(yard).written
    prediction = yard.client.infer("m", X)
    eventually(lambda: status(yard).written == before + 1)
    (event,) = (await logged(yard, "whole"))[-1:]
    call = event.call
    assert call.request_id == prediction.request_id
    assert call.answer.served_by == "models/m/versions/1"
    (attempt,) = call.attempts
    assert attempt.digest == yard.client.versions("m")[0].digest
    assert (attempt.kind, attempt.host) == ("primary", call.answer.host)
    request = oip.ModelInferRequest.FromString(call.request.inline)
    assert request.raw_input_contents[0] == X["X"].tobytes()
    response = oip.ModelInferResponse.FromString(call.response.inline)
    np.testing.assert_array_equal(np.frombuffer(response.raw_output_contents[0], "<f4"), [2, 4])
    assert call.schema.startswith("sha256:")
    assert call.route_revision <= call.revision


async def test_times_are_finer_than_milliseconds(yard):
    """As those of the front's loop are not: hedges that wait for a quantile would be off by one."""
    tap(yard, 1.0)
    for _ in range(20):
        yard.client.infer("m", X)
    eventually(lambda: status(yard).waiting == 0)
    eventually(lambda: status(yard).written == status(yard).recorded)
    calls = [event.call for event in (await logged(yard, "times"))[-20:]]
    times = [call.duration.ToNanoseconds() for call in calls]
    times += [attempt.end.ToNanoseconds() for call in calls for attempt in call.attempts]
    assert sum(time % 1_000_000 != 0 for time in times) > 30


async def test_failures_are_recorded(yard):
    tap(yard, 1.0)
    with pytest.raises(ModelyardError):
        yard.client.infer("m", {"X": np.float32([1.0, 2.0, 3.0]).reshape(1, 1, 3)})
    with pytest.raises(ModelyardError):
        yard.client.infer("m", X, version="77")
    eventually(lambda: status(yard).waiting == 0)
    found = await logged(yard, "failures")
    reasons = [e.call.failure.reason for e in found if e.call.HasField("failure")]
    assert reasons[-2:] == ["INVALID_TENSOR", "VERSION_NOT_FOUND"]


async def test_large_payloads_go_by_reference(yard):
    tap(yard, 1.0)
    yard.client.infer("m", {"X": np.ones((20_000, 2), np.float32)})
    eventually(lambda: status(yard).waiting == 0)
    eventually(lambda: status(yard).written == status(yard).recorded)
    call = (await logged(yard, "large"))[-1].call
    assert call.request.size > 160_000
    kept = yard.layout.payloads / call.request.reference
    assert kept.stat().st_size == call.request.size


def test_no_tap_records_nothing(yard):
    yard.client.replace_route("m", route_pb2.Route())
    before = status(yard).recorded
    for _ in range(20):
        yard.client.infer("m", X)
    assert status(yard).recorded == before


async def test_a_log_that_is_away_costs_no_call_and_its_drops_are_counted(tmp_path):
    with running_yard(tmp_path / "data") as yard:
        yard.client.register("m", scale(tmp_path, 2.0), wait=True)
        tap(yard, 1.0)
        for _ in range(10):
            yard.client.infer("m", X)
        os.kill(yard.room("events").pid, signal.SIGKILL)
        for _ in range(200):
            yard.client.infer("m", X)
        # The keeper starts it again; what waited is written then.
        eventually(lambda: status(yard).written == status(yard).recorded == 210)
        assert status(yard).dropped == 0
        found = await logged(yard, "after")
        # What Redis had not on its disk is gone: a second's worth, at most.
        assert len(found) >= 200
