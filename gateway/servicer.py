"""`modelyard.gateway.v1`: what this gateway knows of itself."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

import grpc
from google.protobuf.message import Message

from gateway.explain import explain
from gateway.figures import Figures, Looks, counted, observed_of, pending_of, status_of
from gateway.guards import Guards
from gateway.meter import NOBODY, Key, Meter, Tally, quantile
from gateway.plan import Kind
from gateway.replicas import Replicas
from gateway.router import Router
from gateway.schedule import propose
from gateway.survival import Observed, curve
from gateway.tap import Tap
from modelyard.catalog import Catalog
from modelyard.catalog.check import check
from modelyard.catalog.convert_route import route_from, seconds_to
from modelyard.errors import FailedPrecondition, InvalidArgument
from modelyard.events.v1 import event_pb2
from modelyard.gateway.v1 import gateway_service_pb2 as pb
from modelyard.gateway.v1 import gateway_service_pb2_grpc as pb_grpc
from modelyard.gateway.v1.route_pb2 import Target
from modelyard.names import ModelName, VersionName

if TYPE_CHECKING:
    # A gateway without an event log need not know it.
    from gateway.recorder.link import RecorderLink

Context: TypeAlias = grpc.aio.ServicerContext[Message, Message]

# Seconds between two responses of a watch, unless asked otherwise, and at least.
INTERVAL, SHORTEST_INTERVAL = 1.0, 0.1
# The share of calls that a proposal may leave unanswered, unless asked otherwise.
MISS = 0.001


class Siblings(Protocol):
    """The other processes behind the same port."""

    async def figures(self, model: str) -> list[Figures]:
        """What each of those that answer knows and has counted."""
        ...


class GatewayServicer(pb_grpc.GatewayServiceServicer):
    """Reads from the meter and the replicas.

    Args:
        meter: The tallies.
        replicas: The replicas.
        router: Plans calls.
        guards: Know what became of attempts.
        catalog: Gives the catalogue that this gateway runs.
        heard_at: Gives when the registry was last heard, on `clock`; None if never.
        clock: Seconds, monotonic.
        tap: Records calls; None where there is no event log.
        recorder: Writes events; None where there is no event log.
        siblings: The other processes behind the same port; None where there are none.
        index: This process's place among them.
    """

    def __init__(
        self,
        meter: Meter,
        replicas: Replicas,
        router: Router,
        guards: Guards,
        catalog: Callable[[], Catalog],
        heard_at: Callable[[], float | None],
        clock: Callable[[], float],
        tap: Tap | None = None,
        recorder: "RecorderLink | None" = None,
        siblings: "Siblings | None" = None,
        index: int = 0,
    ) -> None:
        self.process = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._siblings = siblings
        self._index = index
        self._meter = meter
        self._replicas = replicas
        self._router = router
        self._guards = guards
        self._catalog = catalog
        self._heard_at = heard_at
        self._clock = clock
        self._tap = tap
        self._recorder = recorder

    def figures(self, model: str = "") -> Figures:
        """What this process knows and has counted; of a model also what became of its attempts."""
        now = self._clock()
        status = pb.GetStatusResponse(revision=self._catalog().revision)
        status.workers.add(index=self._index, pid=os.getpid(), revision=status.revision)
        heard_at = self._heard_at()
        if heard_at is not None:
            status.staleness.CopyFrom(seconds_to(max(now - heard_at, 0.0)))
        if self._tap is not None:
            counts, waiting = self._tap.counts, self._tap.waiting
            status.event_log.recorded, status.event_log.written = (
                counts.recorded,
                counts.written,
            )
            status.event_log.dropped, status.event_log.waiting = counts.dropped, waiting
        for replica in sorted(self._replicas.all(), key=lambda r: (r.version, r.host)):
            status.replicas.add(
                host=replica.host,
                version=str(replica.version),
                address=replica.address,
                pending=replica.load.pending,
                latency=seconds_to(replica.load.average),
                resting=replica.rests_until > now,
                lane=replica.endpoint.lane,
            )
        observed = self._guards.observed(ModelName.parse(model).model) if model else {}
        return Figures(self.process, status, self._meter.copy(), observed)

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: Context
    ) -> pb.GetStatusResponse:
        """The revision, its age, and the replicas."""
        return status_of(await self._all())

    async def WatchTraffic(
        self, request: pb.WatchTrafficRequest, context: Context
    ) -> AsyncIterator[pb.WatchTrafficResponse]:
        """One response an interval, the first after one."""
        asked = request.interval.ToTimedelta().total_seconds()
        interval = max(asked or INTERVAL, SHORTEST_INTERVAL)
        looks, then = Looks(await self._all()), self._clock()
        while True:
            await asyncio.sleep(interval)
            now, at = await self._all(), self._clock()
            response = pb.WatchTrafficResponse(
                revision=min(figures.status.revision for figures in now),
                interval=seconds_to(at - then),
            )
            pending, between = pending_of(now), looks.since(now)
            for key in sorted(between.keys() | pending.keys()):
                tally = between.get(key, Tally())
                started = any(attempts.started for attempts in tally.attempts.values())
                if tally.succeeded or tally.failed or started or pending.get(key):
                    response.traffic.append(_traffic(key, tally, pending.get(key, 0)))
            then = at
            yield response

    async def ExplainRoute(
        self, request: pb.ExplainRouteRequest, context: Context
    ) -> pb.ExplainRouteResponse:
        """The plan that a call would get."""
        model = ModelName.parse(request.model).model
        catalog = self._catalog()
        catalog.model(model)
        route = catalog.routes.get(model)
        if request.HasField("route"):
            route = route_from(request.route)
            check(catalog, route)
        deadline = None
        if request.HasField("deadline"):
            deadline = request.deadline.ToTimedelta().total_seconds()
        metadata, now = dict(request.metadata), self._clock()
        return explain(
            *(self._router, self._guards, catalog, route, model, request.version),
            *(metadata, deadline, now),
        )

    async def GetCurves(
        self, request: pb.GetCurvesRequest, context: Context
    ) -> pb.GetCurvesResponse:
        """The curves of a model's versions."""
        response = pb.GetCurvesResponse()
        for version, observed in sorted((await self._of(request.model)).items()):
            shown = response.curves.add(
                version=str(version),
                answered=sum(observed.answered.values()),
                failed=observed.failed,
                cancelled=sum(observed.cancelled.values()),
            )
            for point in curve(observed):
                shown.points.add(
                    after=seconds_to(point.after),
                    answered=point.answered,
                    lower=point.lower,
                    upper=point.upper,
                )
        return response

    async def SuggestRendezvous(
        self, request: pb.SuggestRendezvousRequest, context: Context
    ) -> pb.SuggestRendezvousResponse:
        """A schedule from the curves."""
        deadline = request.deadline.ToTimedelta().total_seconds()
        if deadline <= 0:
            raise InvalidArgument("deadline: none given", field="deadline")
        if not 0 <= request.miss <= 1:
            raise InvalidArgument(f"miss {request.miss:g}: from 0 to 1", field="miss")
        observed = await self._of(request.model)
        curves = {v.number: curve(o) for v, o in observed.items()}
        preferred = list(request.versions) or sorted(curves, reverse=True)
        unknown = [number for number in preferred if not curves.get(number)]
        if unknown or not preferred:
            what = f"versions {unknown}" if unknown else "any version"
            raise FailedPrecondition(
                f"no attempt on {what} of {request.model} was seen by this gateway yet"
            )
        proposal = propose(curves, preferred, deadline, request.miss or MISS)
        response = pb.SuggestRendezvousResponse(miss=proposal.miss, kept=proposal.kept)
        for meeting in proposal.meetings:
            response.rendezvous.add(
                target=Target(version=meeting.version), accept_from=seconds_to(meeting.accept_from)
            )
            response.shares.append(meeting.share)
        return response

    async def RecordFeedback(
        self, request: pb.RecordFeedbackRequest, context: Context
    ) -> pb.RecordFeedbackResponse:
        """Writes a truth into the event log, before it answers."""
        model = ModelName.parse(request.model).model
        self._catalog().model(model)
        if not request.request_id:
            raise InvalidArgument("request_id is empty", field="request_id")
        if not request.truths:
            raise InvalidArgument("truths is empty: name an output", field="truths")
        if self._recorder is None:
            raise FailedPrecondition("this gateway keeps no event log: give it --events")
        event = event_pb2.Event(model=request.model)
        event.time.GetCurrentTime()
        event.feedback.request_id = request.request_id
        for name, value in request.truths.items():
            event.feedback.truths[name].CopyFrom(value)
        return pb.RecordFeedbackResponse(event_id=await self._recorder.write(model, event))

    async def _all(self, model: str = "") -> list[Figures]:
        own = self.figures(model)
        return [own] if self._siblings is None else [own, *await self._siblings.figures(model)]

    async def _of(self, name: str) -> dict[VersionName, Observed]:
        self._catalog().model(ModelName.parse(name).model)
        return observed_of(await self._all(name))


def _traffic(key: Key, tally: Tally, pending: int) -> pb.Traffic:
    model, number = key
    name = str(VersionName(model, number) if number else ModelName(model))
    return pb.Traffic(
        version="" if model == NOBODY else name,
        succeeded=tally.succeeded,
        failed=tally.failed,
        pending=pending,
        retries=tally.attempts[Kind.RETRY].started if Kind.RETRY in tally.attempts else 0,
        latency_p50=seconds_to(quantile(tally.latencies, 0.50)),
        latency_p99=seconds_to(quantile(tally.latencies, 0.99)),
        latency_p999=seconds_to(quantile(tally.latencies, 0.999)),
        attempts=[counted(kind, attempts) for kind, attempts in sorted(tally.attempts.items())],
        budget_exhausted=tally.exhausted,
    )
