"""The supervisor's decisions obeyed in a small world: faults, changing wants, virtual time."""

import random
from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.names import VersionName
from services.inference import lifecycle
from services.inference.lifecycle import Host, Phase, Retries
from services.inference.reconcile import (
    Action,
    Add,
    Drain,
    Forget,
    Kill,
    Policy,
    Start,
    next_actions,
)

VERSIONS = [VersionName(model, n) for model in ("a", "b") for n in (1, 2, 3)]
TICK = 0.5


def digest(version: VersionName) -> str:
    return f"sha256:{version}"


@dataclass
class World:
    """Hosts that load, serve, crash and hang by chance; `faults` is the chance of each, a tick."""

    policy: Policy
    rng: random.Random
    faults: float
    retries: Retries = field(default_factory=Retries)
    now: float = 0.0
    made: int = 0
    hosts: dict[str, Host] = field(default_factory=dict)
    hung: set[str] = field(default_factory=set)
    wanted: dict[VersionName, str] = field(default_factory=dict)

    def put(self, host: Host | None, id: str) -> None:
        if host is None:
            del self.hosts[id]
        else:
            self.hosts[id] = host

    def end(self, host: Host, permanent: bool = False) -> None:
        self.hung.discard(host.id)
        ended = lifecycle.ended(
            host,
            permanent=permanent,
            reason="crashed",
            now=self.now,
            retries=self.retries,
            rng=self.rng,
        )
        self.put(ended, host.id)

    def obey(self, action: Action) -> None:
        match action:
            case Add(version):
                self.made += 1
                id = f"h{self.made:05}"
                self.hosts[id] = Host(id, version, digest(version), Phase.PENDING, self.now)
            case Start(id):
                assert self.hosts[id].phase in (Phase.PENDING, Phase.FAILED)
                self.hosts[id] = lifecycle.starting(self.hosts[id], self.now)
            case Drain(id, reason):
                assert self.hosts[id].phase in (Phase.LOADING, Phase.SERVING)
                self.hosts[id] = lifecycle.draining(self.hosts[id], reason, self.now)
            case Kill(id, reason):
                self.hosts[id] = lifecycle.stopping(self.hosts[id], reason, self.now)
            case Forget(id):
                assert self.hosts[id].phase in (Phase.PENDING, Phase.FAILED)
                del self.hosts[id]

    def reconcile(self) -> None:
        """Until nothing is left to do at this moment; checks each decision."""
        for _ in range(4):
            before = dict(self.hosts)
            actions = next_actions(self.wanted, before.values(), self.now, self.policy)
            if not actions:
                break
            self.check_decisions(before, actions)
            for action in actions:
                self.obey(action)
            self.check_state()
        else:
            raise AssertionError(f"does not come to rest: {actions}")

    def check_decisions(self, before: dict[str, Host], actions: list[Action]) -> None:
        touched = [action.id for action in actions if not isinstance(action, Add)]
        assert len(touched) == len(set(touched))
        for action in actions:
            if not isinstance(action, Drain):
                continue
            host = before[action.id]
            assert host.version not in self.wanted, "drained while wanted"
            if host.phase is not Phase.SERVING:
                continue
            successors = [v for v in self.wanted if v.model == host.version.model]
            kept = [h for h in before.values() if h.version in successors and not h.unwanted]
            assert (
                not successors
                or any(h.phase is Phase.SERVING for h in kept)
                or (kept and all(h.permanent for h in kept))
            ), "drained before a successor served"

    def check_state(self) -> None:
        loading = sum(host.phase is Phase.LOADING for host in self.hosts.values())
        assert loading <= self.policy.starts
        kept = Counter(host.version for host in self.hosts.values() if not host.unwanted)
        assert all(count <= self.policy.replicas for count in kept.values())

    def tick(self) -> None:
        self.now += TICK
        for host in list(self.hosts.values()):
            bad = self.rng.random() < self.faults
            match host.phase:
                case Phase.LOADING:
                    if host.id in self.hung:
                        continue
                    if bad:
                        how = self.rng.choice(["crash", "hang", "artifact"])
                        if how == "hang":
                            self.hung.add(host.id)
                        else:
                            self.end(host, permanent=how == "artifact")
                    elif self.rng.random() < 0.5:
                        self.hosts[host.id] = lifecycle.serving(host, "unix:/x", self.now)
                case Phase.SERVING:
                    if bad and self.rng.random() < 0.5:
                        self.end(host)
                        continue
                    if bad:
                        self.hung.add(host.id)
                    self.hosts[host.id] = lifecycle.checked(host, host.id not in self.hung)
                case Phase.DRAINING:
                    if bad:
                        self.hung.add(host.id)
                    if host.id not in self.hung and self.rng.random() < 0.5:
                        self.end(host)
                case Phase.STOPPING:
                    self.end(host)
        self.reconcile()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    replicas=st.integers(1, 3),
    starts=st.integers(1, 3),
    faults=st.sampled_from([0.0, 0.05, 0.3]),
    wants=st.lists(st.sets(st.sampled_from(VERSIONS)), min_size=1, max_size=6),
    ticks=st.integers(1, 40),
)
def test_converges_and_never_drops_what_serves(seed, replicas, starts, faults, wants, ticks):
    policy = Policy(replicas=replicas, starts=starts, load_timeout=20.0, drain_timeout=10.0)
    world = World(policy, random.Random(seed), faults)
    for versions in wants:
        world.wanted = {version: digest(version) for version in versions}
        world.reconcile()
        for _ in range(ticks):
            world.tick()
    # The faults end; the longest waits are a faulty artifact's retry and one hung load each.
    world.faults = 0.0
    for _ in range(int((300 + 20 * len(VERSIONS) * replicas) / TICK)):
        world.tick()
    assert {host.phase for host in world.hosts.values()} <= {Phase.SERVING}
    assert Counter(host.version for host in world.hosts.values()) == Counter(
        {version: replicas for version in wants[-1]}
    )
    world.wanted = {}
    world.reconcile()
    for _ in range(int(20 / TICK)):
        world.tick()
    assert world.hosts == {}


def test_without_faults_a_model_always_has_a_serving_version():
    policy = Policy(replicas=1, starts=1)
    world = World(policy, random.Random(7), faults=0.0)
    a1, a2, a3 = VERSIONS[:3]
    world.wanted = {a1: digest(a1)}
    world.reconcile()
    while not any(host.phase is Phase.SERVING for host in world.hosts.values()):
        world.tick()
    for version in [a2, a3, a1] * 10:
        world.wanted = {version: digest(version)}
        world.reconcile()
        for _ in range(world.rng.randrange(1, 12)):
            world.tick()
            assert any(host.phase is Phase.SERVING for host in world.hosts.values())


def test_a_restart_count_survives_a_kill():
    world = World(Policy(), random.Random(3), faults=0.0)
    world.wanted = {VERSIONS[0]: digest(VERSIONS[0])}
    world.reconcile()
    for _ in range(20):
        world.tick()
    (host,) = world.hosts.values()
    assert host.phase is Phase.SERVING
    world.hung.add(host.id)
    for _ in range(4):
        world.tick()
    (killed,) = world.hosts.values()
    assert killed.id == host.id and "hung" in killed.reason
    for _ in range(20):
        world.tick()
    (again,) = world.hosts.values()
    assert replace(again, since=0) == replace(
        host, since=0, restarts=1, failures=again.failures, retry_at=again.retry_at
    )
