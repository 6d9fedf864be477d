"""`modelyard.gateway.v1`: what this gateway knows of itself."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from gateway.meter import Key, Meter, Tally, differences, quantile
from gateway.replicas import Replicas
from modelyard.gateway.v1 import gateway_service_pb2 as pb
from modelyard.gateway.v1 import gateway_service_pb2_grpc as pb_grpc
from modelyard.names import ModelName, VersionName

Context: TypeAlias = grpc.aio.ServicerContext[Message, Message]

# Seconds between two responses of a watch, unless asked otherwise, and at least.
INTERVAL, SHORTEST_INTERVAL = 1.0, 0.1


class GatewayServicer(pb_grpc.GatewayServiceServicer):
    """Reads from the meter and the replicas.

    Args:
        meter: The tallies.
        replicas: The replicas.
        revision: Gives the registry's revision that this gateway runs.
        heard_at: Gives when the registry was last heard, on `clock`; None if never.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        meter: Meter,
        replicas: Replicas,
        revision: Callable[[], int],
        heard_at: Callable[[], float | None],
        clock: Callable[[], float],
    ) -> None:
        self._meter = meter
        self._replicas = replicas
        self._revision = revision
        self._heard_at = heard_at
        self._clock = clock

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: Context
    ) -> pb.GetStatusResponse:
        """The revision, its age, and the replicas."""
        now = self._clock()
        response = pb.GetStatusResponse(revision=self._revision())
        heard_at = self._heard_at()
        if heard_at is not None:
            response.staleness.CopyFrom(_duration(max(now - heard_at, 0.0)))
        for replica in sorted(self._replicas.all(), key=lambda r: (r.version, r.host)):
            response.replicas.add(
                host=replica.host,
                version=str(replica.version),
                address=replica.address,
                pending=replica.load.pending,
                latency=_duration(replica.load.average),
                resting=replica.rests_until > now,
            )
        return response

    async def WatchTraffic(
        self, request: pb.WatchTrafficRequest, context: Context
    ) -> AsyncIterator[pb.WatchTrafficResponse]:
        """One response an interval, the first after one."""
        asked = request.interval.ToTimedelta().total_seconds()
        interval = max(asked or INTERVAL, SHORTEST_INTERVAL)
        before, then = self._meter.copy(), self._clock()
        while True:
            await asyncio.sleep(interval)
            now, at = self._meter.copy(), self._clock()
            response = pb.WatchTrafficResponse(
                revision=self._revision(), interval=_duration(at - then)
            )
            pending = self._pending()
            between = differences(now, before)
            for key in sorted(between.keys() | pending.keys()):
                tally = between.get(key, Tally())
                if tally.succeeded or tally.failed or pending.get(key):
                    response.traffic.append(_traffic(key, tally, pending.get(key, 0)))
            before, then = now, at
            yield response

    def _pending(self) -> dict[Key, int]:
        pending: dict[Key, int] = {}
        for replica in self._replicas.all():
            key = (replica.version.model, replica.version.number)
            pending[key] = pending.get(key, 0) + replica.load.pending
        return pending


def _traffic(key: Key, tally: Tally, pending: int) -> pb.Traffic:
    model, number = key
    return pb.Traffic(
        version=str(VersionName(model, number) if number else ModelName(model)),
        succeeded=tally.succeeded,
        failed=tally.failed,
        pending=pending,
        retries=tally.retries,
        latency_p50=_duration(quantile(tally.latencies, 0.50)),
        latency_p99=_duration(quantile(tally.latencies, 0.99)),
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration
