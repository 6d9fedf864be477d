"""What the supervisor decides, row by row."""

import random
from dataclasses import replace

import pytest

from modelyard.names import VersionName
from services.inference.lifecycle import (
    Host,
    Phase,
    Retries,
    draining,
    ended,
    serving,
    starting,
)
from services.inference.reconcile import Add, Drain, Forget, Kill, Policy, Start, next_actions

V1, V2, V3 = (VersionName("digits", n) for n in (1, 2, 3))
OTHER = VersionName("other", 1)
POLICY = Policy(replicas=1, starts=2, load_timeout=100.0, drain_timeout=30.0, misses=3)


def digest(version: VersionName) -> str:
    return f"sha256:{version}"


def want(*versions: VersionName) -> dict[VersionName, str]:
    return {version: digest(version) for version in versions}


def host(version: VersionName, phase: Phase, id: str = "", **fields: object) -> Host:
    made = Host(id or f"{version.model}{version.number}", version, digest(version), phase, 0.0)
    return replace(made, unwanted=phase is Phase.DRAINING, **fields)  # type: ignore[arg-type]


NO_LONGER = "no longer wanted"


@pytest.mark.parametrize(
    ("wanted", "hosts", "now", "actions"),
    [
        pytest.param(want(), [], 0, [], id="nothing to do"),
        pytest.param(want(V1), [], 0, [Add(V1)], id="a new want is noted"),
        pytest.param(want(V1), [host(V1, Phase.PENDING)], 0, [Start("digits1")], id="and started"),
        pytest.param(want(V1), [host(V1, Phase.LOADING)], 99, [], id="loading takes its time"),
        pytest.param(want(V1), [host(V1, Phase.SERVING)], 1e6, [], id="serving is left alone"),
        pytest.param(
            want(V1),
            [host(V1, Phase.LOADING, stage="warming")],
            100,
            [Kill("digits1", "did not serve within 100 s (warming)")],
            id="loading for ever",
        ),
        pytest.param(
            want(V1),
            [host(V1, Phase.SERVING, missed=3)],
            1,
            [Kill("digits1", "hung: missed 3 health checks in a row")],
            id="hung",
        ),
        pytest.param(want(V1), [host(V1, Phase.SERVING, missed=2)], 1, [], id="not yet hung"),
        pytest.param(
            want(V1), [host(V1, Phase.STOPPING)], 1, [], id="a killed one comes back as failed"
        ),
        pytest.param(
            want(),
            [host(V1, Phase.DRAINING)],
            30,
            [Kill("digits1", "did not drain within 30 s")],
            id="drains for ever",
        ),
        pytest.param(want(), [host(V1, Phase.DRAINING)], 29, [], id="drains"),
        pytest.param(
            want(V1), [host(V1, Phase.FAILED, retry_at=5.0)], 4.9, [], id="in its back-off"
        ),
        pytest.param(
            want(V1),
            [host(V1, Phase.FAILED, retry_at=5.0)],
            5,
            [Start("digits1")],
            id="after its back-off",
        ),
        pytest.param(
            want(), [host(V1, Phase.FAILED)], 0, [Forget("digits1")], id="failed, unwanted"
        ),
        pytest.param(
            want(), [host(V1, Phase.PENDING)], 0, [Forget("digits1")], id="pending, unwanted"
        ),
        pytest.param(
            want(),
            [host(V1, Phase.SERVING)],
            0,
            [Drain("digits1", NO_LONGER)],
            id="serving, unwanted",
        ),
        pytest.param(
            want(),
            [host(V1, Phase.LOADING)],
            0,
            [Drain("digits1", NO_LONGER)],
            id="loading, unwanted",
        ),
        pytest.param(
            want(V2),
            [host(V1, Phase.SERVING)],
            0,
            [Add(V2)],
            id="start before stop: the successor is not there yet",
        ),
        pytest.param(
            want(V2),
            [host(V1, Phase.SERVING), host(V2, Phase.LOADING)],
            0,
            [],
            id="start before stop: the successor loads",
        ),
        pytest.param(
            want(V2),
            [host(V1, Phase.SERVING), host(V2, Phase.SERVING)],
            0,
            [Drain("digits1", NO_LONGER)],
            id="start before stop: the successor serves",
        ),
        pytest.param(
            want(V2),
            [host(V1, Phase.SERVING), host(V2, Phase.FAILED, permanent=True, retry_at=9.0)],
            0,
            [Drain("digits1", NO_LONGER)],
            id="no successor can come",
        ),
        pytest.param(
            want(V2, OTHER),
            [host(V1, Phase.SERVING), host(V2, Phase.SERVING), host(OTHER, Phase.PENDING)],
            0,
            [Drain("digits1", NO_LONGER), Start("other1")],
            id="another model's start keeps nobody",
        ),
        pytest.param(
            want(V1),
            [host(V1, Phase.DRAINING, id="old")],
            0,
            [Add(V1)],
            id="wanted again in its drain",
        ),
        pytest.param(
            want(V1, V2, V3),
            [host(v, Phase.PENDING) for v in (V1, V2, V3)],
            0,
            [Start("digits1"), Start("digits2")],
            id="two at a time",
        ),
        pytest.param(
            want(V1, V2, V3),
            [host(V1, Phase.PENDING), host(V2, Phase.LOADING), host(V3, Phase.LOADING)],
            0,
            [],
            id="no free start",
        ),
        pytest.param(
            want(V1, V2, OTHER),
            [host(V1, Phase.SERVING), host(V2, Phase.PENDING), host(OTHER, Phase.PENDING)],
            0,
            [Start("other1"), Start("digits2")],
            id="a model without a host comes first",
        ),
        pytest.param(
            want(V1, V2, V3),
            [
                host(V1, Phase.FAILED, failures=1),
                host(V2, Phase.PENDING, since=3.0),
                host(V3, Phase.PENDING, since=4.0),
            ],
            5,
            [Start("digits2"), Start("digits3")],
            id="one that failed waits for those that have yet to try",
        ),
    ],
)
def test_actions(wanted, hosts, now, actions):
    assert next_actions(wanted, hosts, now, POLICY) == actions
    assert next_actions(wanted, hosts, now, POLICY) == actions


def test_another_digest_is_another_thing():
    old = replace(host(V1, Phase.SERVING), digest="sha256:old")
    new = host(V1, Phase.SERVING, id="new")
    assert next_actions(want(V1), [old], 0, POLICY) == [Add(V1)]
    assert next_actions(want(V1), [old, new], 0, POLICY) == [Drain("digits1", NO_LONGER)]


def test_replicas():
    policy = replace(POLICY, replicas=2)
    assert next_actions(want(V1), [], 0, policy) == [Add(V1), Add(V1)]
    pending = [
        host(version, Phase.PENDING, id=f"{version.number}{n}")
        for version in (V1, V2)
        for n in "ab"
    ]
    # The first of each before the second of any.
    assert next_actions(want(V1, V2), pending, 0, policy) == [Start("1a"), Start("2a")]
    three = [
        host(V1, Phase.SERVING, id="a", since=1.0),
        host(V1, Phase.SERVING, id="b", since=2.0),
        host(V1, Phase.SERVING, id="c", since=3.0),
    ]
    assert next_actions(want(V1), three, 5, policy) == [Drain("c", "more than 2 replicas")]
    three[0] = replace(three[0], phase=Phase.FAILED, retry_at=9.0)
    assert next_actions(want(V1), three, 5, policy) == [Forget("a")]


def test_a_life():
    rng, retries = random.Random(1), Retries()
    new = host(V1, Phase.PENDING)
    loading = starting(new, 1.0)
    assert (loading.phase, loading.restarts) == (Phase.LOADING, 0)
    up = serving(loading, "unix:/a", 2.0)
    assert (up.phase, up.address, up.since) == (Phase.SERVING, "unix:/a", 2.0)
    failed = ended(up, permanent=False, reason="killed", now=3.0, retries=retries, rng=rng)
    assert failed is not None
    assert (failed.phase, failed.address, failed.failures) == (Phase.FAILED, "", 1)
    assert 3.25 <= failed.retry_at <= 3.5
    again = starting(failed, 4.0)
    assert (again.restarts, again.reason) == (1, "killed")
    assert serving(again, "unix:/a", 5.0).reason == ""
    down = draining(serving(again, "unix:/a", 5.0), "no longer wanted", 6.0)
    assert ended(down, permanent=False, reason="", now=7.0, retries=retries, rng=rng) is None


def test_failures_in_a_row_wait_longer_and_a_long_service_ends_the_row():
    rng, retries = random.Random(1), Retries()
    current, waits = host(V1, Phase.PENDING), []
    for _ in range(10):
        failed = ended(
            starting(current, 0.0), permanent=False, reason="x", now=0.0, retries=retries, rng=rng
        )
        assert failed is not None
        waits.append(failed.retry_at)
        current = failed
    assert all(
        0.5 * most <= wait <= most
        for wait, most in zip(waits, [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30], strict=True)
    )
    up = serving(starting(current, 0.0), "unix:/a", 0.0)
    failed = ended(up, permanent=False, reason="x", now=60.0, retries=retries, rng=rng)
    assert failed is not None and (failed.failures, failed.restarts) == (1, 10)


def test_a_faulty_artifact_is_tried_rarely():
    failed = ended(
        starting(host(V1, Phase.PENDING), 0.0),
        permanent=True,
        reason="golden sample 0",
        now=0.0,
        retries=Retries(),
        rng=random.Random(1),
    )
    assert failed is not None and failed.permanent and failed.retry_at >= 150.0
