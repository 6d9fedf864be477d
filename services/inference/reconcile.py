"""What to do next, from what is wanted and what there is.

Stateless and idempotent: a snapshot goes in, actions come out, and the same snapshot gives the
same actions, so nothing is lost when the supervisor dies between two of them (the shape is
TensorFlow Serving's `aspired_version_policy.h`). The rules:

- Each wanted version has `replicas` hosts. The first of every version starts before the second of
  any, and a model without a serving host comes before one that has one.
- At most `starts` hosts load at a time: loading is the costly part, and calls go on meanwhile.
- Start before stop: an unwanted host that serves goes on while its model has wanted versions of
  which none serves yet and one still may.
- A host that crashed starts again when its back-off ends; one that hangs, loads for ever or drains
  for ever is killed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from modelyard.names import VersionName
from services.inference.lifecycle import Host, Phase, stopping


@dataclass(frozen=True, slots=True)
class Policy:
    """How many, and how patient. Times are in seconds.

    Attributes:
        replicas: Hosts of each version.
        starts: Hosts that may load at the same time.
        load_timeout: A host that loads for longer is killed.
        drain_timeout: A host that drains for longer is killed.
        misses: A host that misses so many health checks in a row is killed.
    """

    replicas: int = 1
    starts: int = 2
    load_timeout: float = 300.0
    drain_timeout: float = 30.0
    misses: int = 3


@dataclass(frozen=True, slots=True)
class Add:
    """Note a new host, pending."""

    version: VersionName


@dataclass(frozen=True, slots=True)
class Start:
    """Give a pending or failed host a process."""

    id: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Ask a host to end its calls and itself."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End a host's process."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop a host that has no process."""

    id: str


Action = Add | Start | Drain | Kill | Forget

_IDLE = frozenset({Phase.PENDING, Phase.FAILED})
# Of too many hosts of a version, the first of these go first.
_LEAST_USE = (Phase.STOPPING, Phase.PENDING, Phase.FAILED, Phase.LOADING, Phase.SERVING)


def next_actions(
    wanted: Mapping[VersionName, str], hosts: Iterable[Host], now: float, policy: Policy
) -> list[Action]:
    """Says what to do now.

    Args:
        wanted: The digest of each version that should serve.
        hosts: All hosts there are.
        now: In seconds, on the clock of the hosts' times.
        policy: How many, and how patient.
    """
    hosts = sorted(hosts, key=lambda host: (host.since, host.id))
    kills = {host.id: kill for host in hosts if (kill := _stuck(host, now, policy))}
    hosts = [
        stopping(host, kills[host.id].reason, now) if host.id in kills else host for host in hosts
    ]

    keep: dict[VersionName, list[Host]] = {version: [] for version in wanted}
    unwanted: list[Host] = []
    for host in hosts:
        if host.unwanted:
            continue
        if wanted.get(host.version) == host.digest:
            # One that is being killed is kept: it comes back as failed, with its count of restarts.
            keep[host.version].append(host)
        elif host.phase is not Phase.STOPPING:
            unwanted.append(host)

    ends = _end_unwanted(unwanted, keep)
    surplus = _end_surplus(keep, policy)
    gone = {action.id for action in surplus}
    adds = [
        Add(version)
        for version, kept in sorted(keep.items())
        for _ in range(policy.replicas - len(kept))
    ]
    stays = [host for kept in keep.values() for host in kept if host.id not in gone]
    loading = sum(host.phase is Phase.LOADING for host in hosts)
    starts = _starts(stays, now, policy.starts - loading)
    return [*kills.values(), *ends, *surplus, *adds, *starts]


def _stuck(host: Host, now: float, policy: Policy) -> Kill | None:
    waited = now - host.since
    match host.phase:
        case Phase.LOADING if waited >= policy.load_timeout:
            return Kill(host.id, f"did not serve within {policy.load_timeout:g} s ({host.stage})")
        case Phase.DRAINING if waited >= policy.drain_timeout:
            return Kill(host.id, f"did not drain within {policy.drain_timeout:g} s")
        case Phase.SERVING if host.missed >= policy.misses:
            return Kill(host.id, f"hung: missed {host.missed} health checks in a row")
    return None


def _end_unwanted(
    unwanted: Sequence[Host], keep: Mapping[VersionName, Sequence[Host]]
) -> list[Drain | Forget]:
    wanted_hosts: dict[str, list[Host]] = defaultdict(list)
    hostless: set[str] = set()
    for version, kept in keep.items():
        wanted_hosts[version.model].extend(kept)
        if not kept:
            hostless.add(version.model)

    def awaits_successor(model: str) -> bool:
        successors = wanted_hosts.get(model, [])
        if any(host.phase is Phase.SERVING for host in successors):
            return False
        return model in hostless or any(not host.permanent for host in successors)

    ends: list[Drain | Forget] = []
    for host in unwanted:
        if host.phase in _IDLE:
            ends.append(Forget(host.id))
        elif host.phase is Phase.LOADING or not awaits_successor(host.version.model):
            ends.append(Drain(host.id, "no longer wanted"))
    return ends


def _end_surplus(
    keep: Mapping[VersionName, Sequence[Host]], policy: Policy
) -> list[Drain | Forget]:
    ends: list[Drain | Forget] = []
    for kept in keep.values():
        # Of equals, the youngest go.
        ranked = sorted(kept, key=lambda host: (_LEAST_USE.index(host.phase), -host.since))
        for host in ranked[: max(0, len(kept) - policy.replicas)]:
            if host.phase in _IDLE:
                ends.append(Forget(host.id))
            elif host.phase is not Phase.STOPPING:
                ends.append(Drain(host.id, f"more than {policy.replicas} replicas"))
    return ends


def _starts(hosts: Sequence[Host], now: float, free: int) -> list[Start]:
    ready = [
        host
        for host in hosts
        if host.phase is Phase.PENDING or (host.phase is Phase.FAILED and host.retry_at <= now)
    ]
    serving_models = {host.version.model for host in hosts if host.phase is Phase.SERVING}
    up = Counter(host.version for host in hosts if host.phase in (Phase.SERVING, Phase.LOADING))
    starts: list[Start] = []
    while ready and len(starts) < free:
        # One that failed before lets those go first that have yet to try.
        first = min(
            ready,
            key=lambda host: (
                up[host.version],
                host.version.model in serving_models,
                host.failures > 0,
                host.since,
                host.id,
            ),
        )
        ready.remove(first)
        up[first.version] += 1
        starts.append(Start(first.id))
    return starts
