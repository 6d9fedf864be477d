"""The benchmark's sequences over many runs say what the service's say, event by event."""

import numpy as np
import pytest

from benchmarks.verdicts import capital, decided, sums
from services.shadow.statistics import Mean
from services.shadow.statistics.mean import log_capital


def test_the_twins_agree():
    rng = np.random.default_rng(3)
    values = (rng.random((5, 300)) < 0.05).astype(float)
    total, variance = sums(values)
    for run in range(5):
        mean = Mean()
        for index, value in enumerate(values[run]):
            mean.add(value)
            assert mean.total == pytest.approx(total[run, index])
            assert mean.variance == pytest.approx(variance[run, index])
    deviations = rng.uniform(-2, 30, 200)
    variances = rng.uniform(0, 50, 200)
    for deviation, spread, found in zip(
        deviations, variances, capital(deviations, variances), strict=True
    ):
        assert found == pytest.approx(log_capital(deviation, spread, 1.0), rel=1e-9)


def test_they_decide_at_the_same_event():
    def draw(rng, shape):
        return (rng.random(shape) < 0.001).astype(float)

    promoted, rejected = decided(draw, 0.02, 0.01, 4, 1500, 7)
    assert not rejected.any()
    values = draw(np.random.default_rng(7), (4, 1500))
    for run in range(4):
        mean, at = Mean(), 0
        for index, value in enumerate(values[run]):
            mean.add(value)
            if mean.is_below(0.02, 0.01):
                at = index + 1
                break
        assert at == promoted[run] > 0
