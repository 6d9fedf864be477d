"""Ejects replicas that fail much more than the others of their version.

After Envoy's outlier detection (gRFC A50): 5 failures in a row, or, among at least 5 replicas
with at least 100 attempts each in 10 s, a success rate of 1.9 standard deviations under the
mean, and no fewer than 5 failures: where all others are without fault the deviation is tiny.
An ejected replica rests for 30 s, longer each time, 300 s at most. At most 10 % of a version's
replicas rest for it, one in any case, and never all.
"""

import statistics
from collections.abc import Sequence

from gateway.replicas import Replica

IN_A_ROW = 5
INTERVAL, LEAST_REPLICAS, LEAST_ATTEMPTS, DEVIATIONS = 10.0, 5, 100, 1.9
REST, LONGEST_REST = 30.0, 300.0
MOST_EJECTED = 0.1


def failed(replica: Replica, peers: Sequence[Replica], now: float) -> bool:
    """Records a failure of a replica among those of its version; tells whether one is ejected.

    Args:
        replica: The one that failed.
        peers: All of its version, itself included.
        now: Seconds.
    """
    record = replica.record
    record.in_a_row += 1
    record.failed += 1
    if record.in_a_row >= IN_A_ROW:
        return _eject(replica, peers, now)
    ejected = False
    if now - record.since >= INTERVAL:
        for outlier in _outliers(peers):
            ejected = _eject(outlier, peers, now) or ejected
        for peer in peers:
            peer.record.restart(now)
    return ejected


def _outliers(peers: Sequence[Replica]) -> list[Replica]:
    measured = [p for p in peers if p.record.attempts >= LEAST_ATTEMPTS]
    if len(measured) < LEAST_REPLICAS:
        return []
    rates = [p.record.succeeded / p.record.attempts for p in measured]
    bound = statistics.fmean(rates) - DEVIATIONS * statistics.pstdev(rates)
    return [
        p
        for p, rate in zip(measured, rates, strict=True)
        if rate < bound and p.record.failed >= IN_A_ROW
    ]


def _eject(replica: Replica, peers: Sequence[Replica], now: float) -> bool:
    if replica.record.ejected_until > now:
        return False  # Calls that were under way when it was ejected fail late.
    others = [p for p in peers if p is not replica]
    ejected = sum(p.record.ejected_until > now for p in others)
    if not any(p.record.ejected_until <= now for p in others):
        return False
    if ejected + 1 > max(1, int(MOST_EJECTED * len(peers))):
        return False
    record = replica.record
    if now - record.ejected_until > LONGEST_REST:
        record.ejections = 0
    record.ejections += 1
    record.in_a_row = 0
    record.ejected_until = now + min(REST * record.ejections, LONGEST_REST)
    replica.rests_until = max(replica.rests_until, record.ejected_until)
    return True
