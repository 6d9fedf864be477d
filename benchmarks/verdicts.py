"""How often verdicts are wrong, and how soon they come: simulated, with a look after every event.

Under the null the truth lies exactly on the margin: each promotion is a false one, and so is each
rejection. Ten thousand runs tell their share to half a percent. The sequences are the twins, over
all runs at once, of `services.shadow.statistics`; `tests/unit/shadow/test_twins.py` holds that
they say the same.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from benchmarks import machine, report
from services.shadow.statistics.mean import _TUNED_FOR

RESULTS = Path(__file__).parent / "results"
# The usual plan has three gates, which share 5 %.
ALPHA, GATES = 0.05, 3
MARGIN = 0.02
_AT_ONCE = 500

Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]


def capital(
    deviation: NDArray[np.float64], variance: NDArray[np.float64], scale: float = 1.0
) -> NDArray[np.float64]:
    """The twin of `services.shadow.statistics.mean.log_capital`, for arrays."""
    rho = _TUNED_FOR / scale**2
    shape = variance / scale**2 + rho
    rate = deviation / scale + shape
    normal = rho * math.log(rho) - special.gammaln(rho) - math.log(special.gammainc(rho, rho))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (
            normal
            + special.gammaln(shape)
            + np.log(special.gammainc(shape, rate))
            - shape * np.log(rate)
            + deviation / scale
            + variance / scale**2
        )
    return np.where(rate > 0, np.nan_to_num(found, nan=-np.inf), -np.inf)


def sums(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sums and the variance processes of runs: one a row, after each event."""
    total = np.cumsum(values, axis=1)
    before = np.concatenate([np.zeros((len(values), 1)), total[:, :-1]], axis=1)
    guess = (0.5 + before) / np.arange(1, values.shape[1] + 1)
    return total, np.cumsum((values - guess) ** 2, axis=1)


def first(hit: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The event at which each run first hit; 0 for never."""
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)


def decided(
    draw: Draw, bound: float, alpha: float, runs: int, length: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """When each run was promoted and when it was rejected, looked at after every event."""
    rng = np.random.default_rng(seed)
    promoted, rejected = [], []
    threshold = -math.log(alpha)
    for start in range(0, runs, _AT_ONCE):
        values = draw(rng, (min(_AT_ONCE, runs - start), length))
        total, variance = sums(values)
        off = np.arange(1, length + 1) * bound - total
        promoted.append(first((off > 0) & (capital(off, variance) >= threshold)))
        rejected.append(first((off < 0) & (capital(-off, variance) >= threshold)))
    return np.concatenate(promoted), np.concatenate(rejected)


def quantile_missed(p: float, alpha: float, runs: int, length: int, seed: int) -> int:
    """Runs whose band ever missed the true quantile."""
    from services.shadow.statistics.latency import _PRIOR

    rng, missed = np.random.default_rng(seed), 0
    a, b = _PRIOR * p, _PRIOR * (1 - p)
    count = np.arange(1, length + 1)
    for start in range(0, runs, _AT_ONCE):
        below = rng.random((min(_AT_ONCE, runs - start), length)) < p
        hits = np.cumsum(below, axis=1)
        likelihood = hits * math.log(p) + (count - hits) * math.log1p(-p)
        evidence = special.betaln(a + hits, b + count - hits) - special.betaln(a, b) - likelihood
        missed += int((evidence >= -math.log(alpha)).any(axis=1).sum())
    return missed


def share(count: int, runs: int) -> dict[str, float]:
    """A share with its Clopper-Pearson interval, 95 %."""
    low, high = stats.binomtest(count, runs).proportion_ci(0.95, method="exact")
    return {"share": count / runs, "low": float(low), "high": float(high)}


def fixed(truth: float, bound: float, alpha: float, power: float) -> int:
    """Events of a binomial test, looked at once, that promotes with this power."""
    count = 50
    while True:
        most = stats.binom.ppf(alpha, count, bound) - 1
        if most >= 0 and stats.binom.cdf(most, count, truth) >= power:
            return count
        count = int(count * 1.02) + 1


def bernoulli(p: float) -> Draw:
    return lambda rng, shape: (rng.random(shape) < p).astype(float)


MEANS: dict[str, tuple[float, Draw]] = {
    "Bernoulli 0.001": (0.001, bernoulli(0.001)),
    "Bernoulli 0.02": (0.02, bernoulli(0.02)),
    "Bernoulli 0.5": (0.5, bernoulli(0.5)),
    "Beta(2, 5)": (2 / 7, lambda rng, shape: rng.beta(2, 5, shape)),
    "0 or a half": (0.05, lambda rng, shape: np.where(rng.random(shape) < 0.1, 0.5, 0.0)),
    "always 0.3": (0.3, lambda rng, shape: np.full(shape, 0.3)),
}


def run(runs: int, length: int) -> dict[str, Any]:
    found: dict[str, Any] = {"machine": machine.describe(), "runs": runs, "events": length}
    gate = ALPHA / GATES
    began = time.monotonic()
    found["null"] = {}
    for name, bound, draw in (
        ("difference 0 or 1", MARGIN, bernoulli(MARGIN)),
        (
            "difference 0 or a half",
            MARGIN,
            lambda rng, s: np.where(rng.random(s) < 2 * MARGIN, 0.5, 0.0),
        ),
        ("small differences", MARGIN, lambda rng, s: rng.beta(2, 98, s)),
    ):
        promoted, rejected = decided(draw, bound, ALPHA, runs, length, 1)
        found["null"][name] = {
            "promoted": share(int((promoted > 0).sum()), runs),
            "rejected": share(int((rejected > 0).sum()), runs),
        }
        print(name, found["null"][name], flush=True)
    found["power"] = {}
    for truth in (0.0, 0.005, 0.01, 0.04, 0.1):
        promoted, rejected = decided(bernoulli(truth), MARGIN, gate, 1000, 4 * length, 2)
        hits = promoted if truth < MARGIN else rejected
        right = hits[hits > 0]
        found["power"][str(truth)] = {
            "verdict": "promoted" if truth < MARGIN else "rejected",
            "decided": len(right) / 1000,
            "median": float(np.median(right)) if len(right) else None,
            "p90": float(np.quantile(right, 0.9)) if len(right) else None,
            "fixed_n": fixed(truth, MARGIN, gate, 0.9) if truth < MARGIN else None,
        }
        print(truth, found["power"][str(truth)], flush=True)
    found["coverage"] = {}
    for name, (mean, draw) in MEANS.items():
        below, above = decided(draw, mean, ALPHA / 2, runs, length // 2, 3)
        missed = int(((below > 0) | (above > 0)).sum())
        found["coverage"][name] = share(missed, runs)
    for p in (0.5, 0.95):
        missed = quantile_missed(p, ALPHA, runs, length // 2, 4)
        found["coverage"][f"p{p * 100:g} of a latency"] = share(missed, runs)
    found["seconds"] = time.monotonic() - began
    return found


def text(found: dict[str, Any]) -> str:
    def percent(one: dict[str, float]) -> str:
        return f"{one['share']:.2%} ({one['low']:.2%} to {one['high']:.2%})"

    lines = [
        "# How often verdicts are wrong, and how soon they come",
        "",
        f"{found['runs']:,} runs of {found['events']:,} events, looked at after every one. In"
        " brackets the",
        "95 % interval of the simulation itself (Clopper-Pearson).",
        report.machine(found["machine"]).rstrip(),
        "",
        f"**The truth lies on the margin** ({MARGIN}), one gate with alpha {ALPHA}: whatever is"
        " decided is",
        "wrong, and may be so in at most 5 % of the runs, on either side.",
        "",
        "| differences | falsely promoted, ever | falsely rejected, ever |",
        "| --- | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {percent(one['promoted'])} | {percent(one['rejected'])} |"
        for name, one in found["null"].items()
    ]
    lines += [
        "",
        f"**How soon**: a gate of three (alpha {ALPHA} / {GATES}), margin {MARGIN}, differences of"
        " 0 or 1; 1,000 runs. The last column is",
        "the binomial test that is looked at once, and promotes with a power of 90 % at that size.",
        "",
        "| true mean | verdict | decided | median | 90 % by | fixed n |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for truth, one in found["power"].items():
        median = "" if one["median"] is None else f"{one['median']:,.0f}"
        p90 = "" if one["p90"] is None else f"{one['p90']:,.0f}"
        fixed_n = "" if one["fixed_n"] is None else f"{one['fixed_n']:,}"
        lines.append(
            f"| {truth} | {one['verdict']} | {one['decided']:.1%} | {median} | {p90} | {fixed_n} |"
        )
    lines += [
        "",
        "**Coverage**: runs in which the interval (two sides of 2.5 %; for latencies 5 % in all)"
        " ever missed the truth.",
        "",
        "| observations | ever missed |",
        "| --- | ---: |",
    ]
    lines += [f"| {name} | {percent(one)} |" for name, one in found["coverage"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=3000)
    given = parser.parse_args()
    found = run(given.runs, given.events)
    (RESULTS / "verdicts.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "verdicts.md").write_text(text(found))
    print(text(found))


if __name__ == "__main__":
    main()
