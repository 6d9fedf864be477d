"""The statistics: against integrals and simulations, and as promised however often one looks."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from services.shadow.statistics import Interval, Latencies, Mean, Share, ratio
from services.shadow.statistics.mean import _TUNED_FOR, log_capital
from services.shadow.statistics.share import log_evidence


@pytest.mark.parametrize("deviation", [0.0, 2.0, 20.0, 80.0])
@pytest.mark.parametrize("variance", [0.0, 1.5, 40.0])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_mixture_is_the_integral_that_the_paper_defines(deviation, variance, scale):
    # exp(lambda s - psi_E(lambda) v) over lambda in [0, 1/c), where 1 - c lambda is Gamma(r, r),
    # cut off at 1, with r = rho / c^2; psi_E(lambda) = (-log(1 - c lambda) - c lambda) / c^2.
    rho = _TUNED_FOR / scale**2
    weight = stats.gamma(rho, scale=1 / rho)

    def integrand(u):
        lam = (1 - u) / scale
        psi = (-math.log(u) - scale * lam) / scale**2
        return math.exp(lam * deviation - psi * variance) * weight.pdf(u) / weight.cdf(1.0)

    expected, _ = integrate.quad(integrand, 0, 1, limit=400)
    assert log_capital(deviation, variance, scale) == pytest.approx(math.log(expected), rel=1e-6)


def _around(peak):
    near = (peak + 0.02 * step for step in range(-8, 9))
    return [t for t in near if 0 < t < math.pi / 2]


def test_the_evidence_against_a_share_is_the_likelihood_averaged_over_its_prior():
    for count, hits, share in [(10, 3, 0.2), (500, 7, 0.02), (50, 0, 0.1), (50, 50, 0.9)]:
        # p = sin^2(t): the prior Beta(1/2, 1/2) is even in t.
        averaged, _ = integrate.quad(
            lambda t, h=hits, n=count: math.sin(t) ** (2 * h) * math.cos(t) ** (2 * (n - h)),
            0,
            math.pi / 2,
            points=_around(math.asin(math.sqrt(hits / count))),
            limit=400,
            epsabs=0,
            epsrel=1e-10,
        )
        averaged *= 2 / math.pi
        alone = share**hits * (1 - share) ** (count - hits)
        found = log_evidence(count, hits, share, 0.5, 0.5)
        assert found == pytest.approx(math.log(averaged / alone), rel=1e-5)


def runs(draw, count, length, seed=7):
    rng = np.random.default_rng(seed)
    return draw(rng, (count, length))


MEANS = {
    "rare": (0.02, lambda rng, shape: (rng.random(shape) < 0.02).astype(float)),
    "half": (0.5, lambda rng, shape: (rng.random(shape) < 0.5).astype(float)),
    "beta": (2 / 7, lambda rng, shape: rng.beta(2, 5, shape)),
    "point": (0.3, lambda rng, shape: np.full(shape, 0.3)),
}


@pytest.mark.parametrize("name", MEANS)
def test_the_mean_is_in_its_interval_at_all_times(name):
    mean, draw = MEANS[name]
    alpha, wrong = 0.05, 0
    for run in runs(draw, 200, 800):
        sequence = Mean()
        missed = False
        for value in run:
            sequence.add(value)
            missed |= sequence.is_below(mean - 1e-9, alpha) or sequence.is_above(mean, alpha)
        wrong += missed
    # Two sides at 5 % each; 200 runs have at most 33 with a probability of 99.9 %.
    assert wrong <= 33


def test_an_interval_is_where_the_tests_are():
    sequence = Mean()
    rng = np.random.default_rng(1)
    for value in rng.beta(1, 20, 400):
        sequence.add(value)
    interval = sequence.interval(0.01)
    assert sequence.is_below(interval.upper + 1e-6, 0.01)
    assert not sequence.is_below(interval.upper - 1e-6, 0.01)
    assert sequence.is_above(interval.lower - 1e-6, 0.01)
    assert not sequence.is_above(interval.lower + 1e-6, 0.01)
    assert interval.lower < sequence.estimate < interval.upper


def test_the_width_shrinks_as_the_variance_allows():
    quiet, loud = Mean(), Mean()
    for index in range(2000):
        quiet.add(0.01)
        loud.add(float(index % 2))
    assert quiet.interval(0.01).upper < 0.02
    assert loud.interval(0.01).upper > 0.53


def test_nothing_observed_is_nothing_known():
    assert Mean(-1.0, 1.0).interval(0.05) == Interval(-1.0, 1.0)
    assert Share().interval(0.05) == Interval(0.0, 1.0)
    assert Latencies().band(0.5, 0.05) == Interval(0.0, math.inf)
    assert not Mean().is_below(0.5, 0.05)
    assert not Share().is_above(0.5, 0.05)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60))
def test_what_is_restored_goes_on_as_if_nothing_had_happened(values):
    half = len(values) // 2
    one, other = Mean(-1.0, 1.0), Mean(-1.0, 1.0)
    for value in values:
        one.add(value)
    for value in values[:half]:
        other.add(value)
    other = Mean.restore(json.loads(json.dumps(other.state())))
    for value in values[half:]:
        other.add(value)
    assert one == other


@settings(deadline=None)
@given(st.integers(1, 400), st.data())
def test_a_share_is_in_its_interval_and_the_tests_agree(count, data):
    hits = data.draw(st.integers(0, count))
    share = Share(count, hits)
    interval = share.interval(0.02)
    assert 0.0 <= interval.lower <= share.estimate <= interval.upper <= 1.0
    assert share.is_below(interval.upper, 0.02) or interval.upper == 1.0
    assert not share.is_below((share.estimate + interval.upper) / 2 - 1e-9, 0.02)
    assert Share.restore(share.state()) == share


def test_shares_hold_at_all_times():
    alpha, wrong = 0.05, 0
    for run in runs(lambda rng, shape: rng.random(shape) < 0.05, 300, 600):
        share = Share()
        missed = False
        for happened in run:
            share.add(bool(happened))
            missed |= log_evidence(share.count, share.hits, 0.05, 0.5, 0.5) >= -math.log(alpha)
        wrong += missed
    assert wrong <= 30


@pytest.mark.parametrize("p", [0.5, 0.95])
def test_quantiles_are_in_their_bands_at_all_times(p):
    truth = math.exp(0.5 * special.ndtri(p)) * 0.01
    wrong = 0
    for run in runs(lambda rng, shape: 0.01 * np.exp(0.5 * rng.standard_normal(shape)), 150, 400):
        latencies = Latencies()
        missed = False
        for index, value in enumerate(run):
            latencies.add(value)
            if index % 7 == 0 or index < 20:
                band = latencies.band(p, 0.05)
                missed |= not band.lower <= truth <= band.upper
        wrong += missed
    assert wrong <= 16


def test_a_quantile_is_within_a_bin_of_the_truth():
    rng = np.random.default_rng(3)
    values = 0.003 * np.exp(rng.standard_normal(5000))
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    for p in (0.1, 0.5, 0.9, 0.99):
        truth = float(np.quantile(values, p, method="inverted_cdf"))
        assert truth <= latencies.quantile(p) <= truth * 1.0101
    assert Latencies.restore(json.loads(json.dumps(latencies.state()))) == latencies


def test_extreme_latencies_have_a_bin():
    latencies = Latencies()
    for value in (0.0, 1e-9, 5.0, 1e6):
        latencies.add(value)
    assert latencies.count == 4
    assert latencies.quantile(1.0) >= 1000
    assert latencies.quantile(0.25) <= 1e-6


def test_a_ratio_closes_around_the_truth():
    rng = np.random.default_rng(5)
    fast, slow = Latencies(), Latencies()
    for value in rng.lognormal(-5, 0.3, 3000):
        fast.add(value)
        slow.add(2 * value)
    found = ratio(slow, fast, 0.95, 0.01)
    assert 1.5 < found.lower < 2.0 < found.upper < 2.7
    few = Latencies()
    few.add(0.01)
    assert ratio(few, fast, 0.95, 0.01).upper == math.inf
