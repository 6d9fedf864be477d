"""Circuits: when they open, for how long, and what closes them."""

import random

import pytest

from gateway.circuit import (
    FIRST_REST,
    IN_A_ROW,
    LEAST_DATA,
    LONGEST_REST,
    WINDOW,
    Circuits,
)
from modelyard.names import VersionName

V1 = VersionName("digits", 1)
V2 = VersionName("digits", 2)


class Fixed(random.Random):
    """Draws the same share of every range."""

    def __init__(self, share: float) -> None:
        super().__init__(0)
        self.share = share

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.share


def circuits(share: float = 1.0) -> Circuits:
    return Circuits(Fixed(share))


def opened(share: float = 1.0, now: float = 0.0) -> Circuits:
    found = circuits(share)
    for _ in range(IN_A_ROW):
        found.failed(V1, now)
    return found


def test_what_never_failed_is_allowed() -> None:
    found = circuits()
    assert found.allows(V1, 0.0)
    found.succeeded(V1, 0.0)
    found.gave_up(V1)
    assert found.allows(V1, 0.0)
    assert not found.is_open(V1, 0.0)


def test_opens_after_five_failures_in_a_row() -> None:
    found = circuits()
    for count in range(IN_A_ROW):
        assert found.allows(V1, 0.0), count
        found.failed(V1, 0.0)
    assert not found.allows(V1, 0.0)
    assert found.is_open(V1, 0.0)


def test_a_success_between_begins_the_row_anew() -> None:
    found = circuits()
    for _ in range(IN_A_ROW - 1):
        found.failed(V1, 0.0)
    found.succeeded(V1, 0.0)
    for _ in range(IN_A_ROW - 1):
        found.failed(V1, 0.0)
    assert found.allows(V1, 0.0)
    found.failed(V1, 0.0)
    assert not found.allows(V1, 0.0)


def mixed(found: Circuits, failures: int, successes: int, now: float = 0.0) -> None:
    """So many successes before each of the failures."""
    for _ in range(failures):
        for _ in range(successes):
            found.succeeded(V1, now)
        found.failed(V1, now)


def test_opens_under_eighty_percent() -> None:
    found = circuits()
    found.failed(V1, 0.0)
    mixed(found, failures=4, successes=3)  # 12 of 17: too few to tell.
    assert found.allows(V1, 0.0)
    mixed(found, failures=1, successes=3)  # 15 of 21.
    assert found.is_open(V1, 0.0)


def test_eighty_percent_is_enough() -> None:
    found = circuits()
    found.failed(V1, 0.0)
    for _ in range(4):
        found.succeeded(V1, 0.0)
    for _ in range(100):
        mixed(found, failures=1, successes=4)
        assert found.allows(V1, 0.0)
    found.failed(V1, 0.0)  # 404 of 506.
    assert not found.allows(V1, 0.0)


def test_too_few_attempts_tell_nothing() -> None:
    found = circuits()
    for count in range(1, LEAST_DATA):
        found.failed(V1, 0.0) if count % 2 else found.succeeded(V1, 0.0)
        assert found.allows(V1, 0.0)
    found.failed(V1, 0.0)
    assert not found.allows(V1, 0.0)


def test_what_is_older_than_the_window_is_forgotten() -> None:
    found = circuits()
    mixed(found, failures=9, successes=1)
    found.failed(V1, WINDOW + 1)
    for _ in range(LEAST_DATA):
        found.succeeded(V1, WINDOW + 1)
    assert found.allows(V1, WINDOW + 1)
    # And a success after the window forgets, too.
    found.succeeded(V1, 3 * WINDOW)
    for _ in range(IN_A_ROW - 1):
        found.failed(V1, 3 * WINDOW)
    assert found.allows(V1, 3 * WINDOW)


def test_an_open_circuit_lets_one_try_through() -> None:
    found = opened()
    assert not found.allows(V1, FIRST_REST - 0.01)
    assert not found.is_open(V1, FIRST_REST)
    assert found.allows(V1, FIRST_REST)
    assert not found.allows(V1, FIRST_REST)
    assert not found.allows(V1, FIRST_REST + 100)


def test_is_open_asks_for_nothing() -> None:
    found = opened()
    for _ in range(10):
        found.is_open(V1, FIRST_REST)
    assert found.allows(V1, FIRST_REST)


def test_a_try_that_succeeds_closes() -> None:
    found = opened()
    assert found.allows(V1, FIRST_REST)
    found.succeeded(V1, FIRST_REST)
    assert all(found.allows(V1, FIRST_REST) for _ in range(10))
    # And the next failures count anew.
    for _ in range(IN_A_ROW - 1):
        found.failed(V1, FIRST_REST)
    assert found.allows(V1, FIRST_REST)


def test_a_try_without_a_verdict_gives_its_place_to_another() -> None:
    found = opened()
    assert found.allows(V1, FIRST_REST)
    found.gave_up(V1)
    assert found.allows(V1, FIRST_REST)
    assert not found.allows(V1, FIRST_REST)


def rests(found: Circuits, count: int) -> list[float]:
    """How long it stays open, each time that a try fails."""
    now, seen = 0.0, list[float]()
    for _ in range(count):
        low, high = now, now + 2 * LONGEST_REST
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (middle, high) if found.is_open(V1, middle) else (low, middle)
        seen.append(high - now)
        now = high
        assert found.allows(V1, now)
        found.failed(V1, now)
    return seen


def test_a_try_that_fails_reopens_for_longer() -> None:
    wanted = [min(FIRST_REST * 2**n, LONGEST_REST) for n in range(10)]
    assert rests(opened(), 10) == pytest.approx(wanted, abs=1e-5)
    assert wanted[-1] == LONGEST_REST


@pytest.mark.parametrize("seed", range(5))
def test_rests_are_jittered_by_half(seed: int) -> None:
    found = Circuits(random.Random(seed))
    for _ in range(IN_A_ROW):
        found.failed(V1, 0.0)
    seen = rests(found, 10)
    for count, rest in enumerate(seen):
        longest = min(FIRST_REST * 2**count, LONGEST_REST)
        assert longest / 2 - 1e-5 <= rest <= longest + 1e-5
    assert rests(opened(0.0), 3) == pytest.approx([2.5, 5.0, 10.0], abs=1e-5)


def test_jitter_spreads() -> None:
    chance = random.Random(1)
    seen = set()
    for _ in range(50):
        found = Circuits(chance)
        for _ in range(IN_A_ROW):
            found.failed(V1, 0.0)
        seen.add(next(n for n in range(100) if not found.is_open(V1, n * 0.1)))
    assert len(seen) > 10


def test_failures_while_open_do_not_lengthen_the_rest() -> None:
    found = opened()
    for _ in range(20):
        found.failed(V1, 1.0)  # They were under way when it opened.
    assert found.allows(V1, FIRST_REST)


def test_other_versions_are_untouched() -> None:
    found = opened()
    assert found.allows(V2, 0.0)
    assert not found.is_open(V2, 0.0)
    found.succeeded(V2, 0.0)
    found.gave_up(V2)
    assert not found.allows(V1, 0.0)


def test_a_version_that_is_down_for_days() -> None:
    found, now = opened(), 0.0
    for _ in range(1100):
        now += LONGEST_REST
        assert found.allows(V1, now)
        found.failed(V1, now)
