"""What one gateway process knows and has counted; several of them as one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.meter import Attempts, Key, Tally, differences, summed
from gateway.plan import Kind
from gateway.survival import Observed
from modelyard.gateway.v1 import gateway_service_pb2 as pb
from modelyard.gateway.v1 import worker_service_pb2 as worker_pb
from modelyard.names import VersionName


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one process.

    Attributes:
        process: Names it; another one when it is started again.
        status: Its own.
        tallies: Since it began.
        observed: What became of the attempts on each version of the model asked about.
    """

    process: str
    status: pb.GetStatusResponse
    tallies: Mapping[Key, Tally]
    observed: Mapping[VersionName, Observed] = field(default_factory=dict)


def told(figures: Figures) -> worker_pb.GetFiguresResponse:
    """The figures as they travel."""
    response = worker_pb.GetFiguresResponse(process=figures.process, status=figures.status)
    for (model, number), tally in figures.tallies.items():
        response.tallies.add(
            model=model,
            version=number,
            succeeded=tally.succeeded,
            failed=tally.failed,
            budget_exhausted=tally.exhausted,
            seconds=tally.seconds,
            latencies=tally.latencies,
            attempts=[counted(kind, attempts) for kind, attempts in tally.attempts.items()],
        )
    for version, observed in figures.observed.items():
        response.observed.add(
            version=str(version),
            answered=observed.answered,
            cancelled=observed.cancelled,
            failed=observed.failed,
        )
    return response


def heard(response: worker_pb.GetFiguresResponse) -> Figures:
    """What `told` made."""
    tallies = {
        (tally.model, tally.version): Tally(
            tally.succeeded,
            tally.failed,
            tally.budget_exhausted,
            tally.seconds,
            dict(tally.latencies),
            {
                Kind(a.kind): Attempts(a.started, a.won, a.failed, a.cancelled)
                for a in tally.attempts
            },
        )
        for tally in response.tallies
    }
    observed = {
        VersionName.parse(o.version): Observed(dict(o.answered), dict(o.cancelled), o.failed)
        for o in response.observed
    }
    return Figures(response.process, response.status, tallies, observed)


def counted(kind: Kind, attempts: Attempts) -> pb.AttemptCount:
    """The attempts of one kind as they travel."""
    return pb.AttemptCount(
        kind=kind,
        started=attempts.started,
        won=attempts.won,
        failed=attempts.failed,
        cancelled=attempts.cancelled,
    )


def status_of(all_of: Sequence[Figures]) -> pb.GetStatusResponse:
    """The status of several processes, of which there is at least one, as one.

    The lowest revision, the longest staleness, sums; of a replica the worst: its longest average
    latency, resting where one lets it rest, `grpc` where one asks it so.
    """
    statuses = [figures.status for figures in all_of]
    whole = pb.GetStatusResponse(revision=min(status.revision for status in statuses))
    if all(status.HasField("staleness") for status in statuses):
        oldest = max(statuses, key=lambda status: status.staleness.ToTimedelta())
        whole.staleness.CopyFrom(oldest.staleness)
    replicas: dict[tuple[str, str], pb.Replica] = {}
    for status in statuses:
        whole.workers.extend(status.workers)
        if status.HasField("event_log"):
            for name in ("recorded", "written", "dropped", "waiting"):
                sum_of = getattr(whole.event_log, name) + getattr(status.event_log, name)
                setattr(whole.event_log, name, sum_of)
        for replica in status.replicas:
            _add(replicas.setdefault((replica.version, replica.host), pb.Replica()), replica)
    whole.workers.sort(key=lambda worker: worker.index)
    whole.replicas.extend(replicas.values())
    return whole


def _add(known: pb.Replica, other: pb.Replica) -> None:
    if not known.host:
        known.CopyFrom(other)
        return
    known.pending += other.pending
    known.resting |= other.resting
    if other.latency.ToTimedelta() > known.latency.ToTimedelta():
        known.latency.CopyFrom(other.latency)
    known.lane = min(known.lane, other.lane, key=lambda lane: lane != "grpc")


def pending_of(all_of: Iterable[Figures]) -> dict[Key, int]:
    """Attempts under way, by version."""
    pending: dict[Key, int] = {}
    for figures in all_of:
        for replica in figures.status.replicas:
            version = VersionName.parse(replica.version)
            key = (version.model, version.number)
            pending[key] = pending.get(key, 0) + replica.pending
    return pending


def observed_of(all_of: Iterable[Figures]) -> dict[VersionName, Observed]:
    """What became of the attempts, of all processes together."""
    whole: dict[VersionName, Observed] = {}
    for figures in all_of:
        for version, observed in figures.observed.items():
            whole[version] = whole.get(version, Observed()).plus(observed)
    return whole


class Looks:
    """What was counted between two looks.

    Each process is compared with itself: one that is started again begins at nothing, and one that
    did not answer for a look is compared with the last one at which it did.
    """

    def __init__(self, first: Iterable[Figures]) -> None:
        self._before = {figures.process: figures.tallies for figures in first}

    def since(self, now: Sequence[Figures]) -> dict[Key, Tally]:
        """What all processes together counted since the look before; a new one counts from here."""
        between = []
        for figures in now:
            before = self._before.get(figures.process, figures.tallies)
            between.append(differences(figures.tallies, before))
            self._before[figures.process] = figures.tallies
        return summed(between)
