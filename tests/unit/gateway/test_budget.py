"""The extra-load budget, against a ledger that remembers every call."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.budget import EXTRA_SHARE, FREE_PER_SECOND, TTL, Budget

SHARE = 0.05
FREE = int(FREE_PER_SECOND * TTL)


class Ledger:
    """What a budget may allow, counted the slow way: by the seconds that are not over."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.retries: list[int] = []
        self.hedges: list[int] = []

    def counts(self, now: float) -> tuple[int, int, int]:
        oldest = int(now) - TTL + 1
        calls, retries, hedges = (
            sum(at >= oldest for at in held) for held in (self.calls, self.retries, self.hedges)
        )
        return calls, retries, hedges


# A step: after so many seconds, a call, a retry or a hedge.
Step = tuple[float, str]
steps = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.just(0.0), st.floats(0.0, 0.2), st.floats(0.0, 25.0)),
        st.sampled_from(["call", "call", "call", "retry", "hedge", "hedge"]),
    ),
    max_size=400,
)


def play(traffic: Sequence[Step], share: float, began: float) -> Ledger:
    """Plays traffic and checks each decision against the ledger."""
    budget, ledger, now = Budget(), Ledger(), began
    for after, kind in traffic:
        now += after
        calls, retries, hedges = ledger.counts(now)
        second = int(now)
        if kind == "call":
            budget.deposit(now)
            ledger.calls.append(second)
        elif kind == "retry":
            paid = budget.take_retry(now)
            assert paid == (retries + hedges + 1 <= EXTRA_SHARE * calls + FREE)
            if paid:
                ledger.retries.append(second)
        else:
            paid = budget.take_hedge(now, share)
            assert paid == (
                hedges + 1 <= share * calls
                and retries + hedges + 1 <= max(share, EXTRA_SHARE) * calls
            )
            if paid:
                ledger.hedges.append(second)
    return ledger


@settings(max_examples=200, deadline=None)
@given(steps, st.sampled_from([0.01, 0.05, 0.2, 0.5, 1.0]), st.floats(0.0, 1e6))
def test_every_decision_follows_the_last_ten_seconds(
    traffic: list[Step], share: float, began: float
) -> None:
    ledger = play(traffic, share, began)
    # Whenever one was paid for, the window that ended there had room for it.
    for at in ledger.hedges:
        window = range(at - TTL + 1, at + 1)
        calls = sum(second in window for second in ledger.calls)
        assert sum(second in window for second in ledger.hedges if second <= at) <= share * calls
    for at in ledger.retries:
        window = range(at - TTL + 1, at + 1)
        calls = sum(second in window for second in ledger.calls)
        assert sum(second in window for second in ledger.retries) <= EXTRA_SHARE * calls + FREE


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.sampled_from([0.02, 0.1, 0.5, 1.0]), st.integers(0, 10**6))
def test_a_steady_storm_gets_what_it_may_and_no_more(calls: int, share: float, began: int) -> None:
    """Every call asks for a hedge: in each window they get their share, off by less than two."""
    budget, made = Budget(), list[int]()
    for second in range(4 * TTL):
        paid = 0
        for _ in range(calls):
            budget.deposit(began + second)
            paid += budget.take_hedge(began + second, share)
        made.append(paid)
        window = made[-TTL:]
        most = share * calls * len(window)
        assert most - 2 < sum(window) <= most


def test_a_fresh_purse_pays_no_hedge() -> None:
    budget = Budget()
    assert not budget.take_hedge(0.0, 1.0)
    assert not budget.take_hedge(1e6, 1.0)


def test_retries_are_free_up_to_ten_a_second() -> None:
    budget = Budget()
    assert [budget.take_retry(5.0) for _ in range(FREE + 1)] == [True] * FREE + [False]


def test_a_fifth_of_the_calls_may_be_retries_beyond_the_free_ones() -> None:
    budget = Budget()
    for _ in range(1000):
        budget.deposit(5.0)
    paid = sum(budget.take_retry(5.0) for _ in range(1000))
    assert paid == EXTRA_SHARE * 1000 + FREE


def test_free_retries_pay_no_hedge() -> None:
    budget = Budget()
    for _ in range(100):
        budget.deposit(5.0)
    for _ in range(int(EXTRA_SHARE * 100)):
        assert budget.take_retry(5.0)
    # Its own share is untouched; the whole is spent.
    assert not budget.take_hedge(5.0, SHARE)


def test_hedges_may_have_more_than_a_fifth_where_the_route_says_so() -> None:
    budget = Budget()
    for _ in range(10):
        budget.deposit(5.0)
    assert sum(budget.take_hedge(5.0, 1.0) for _ in range(20)) == 10


@pytest.mark.parametrize("later", [TTL, TTL + 0.5, 3.0 * TTL, 1e5])
def test_what_was_spent_is_forgotten_with_the_traffic_that_paid_for_it(later: float) -> None:
    budget, now = Budget(), 1000.0
    for _ in range(100):
        budget.deposit(now)
    assert sum(budget.take_hedge(now, SHARE) for _ in range(100)) == 5
    assert not budget.take_hedge(now + TTL - 1, SHARE)
    assert not budget.take_hedge(now + later, SHARE)  # Nor is there anything to spend.
    for _ in range(100):
        budget.deposit(now + later)
    assert sum(budget.take_hedge(now + later, SHARE) for _ in range(100)) == 5


def test_retries_refill_as_time_goes_on() -> None:
    budget = Budget()
    for second in range(TTL):
        for _ in range(int(FREE_PER_SECOND)):
            assert budget.take_retry(second + 0.5)
    assert not budget.take_retry(TTL - 0.1)
    for second in range(TTL, 3 * TTL):
        paid = sum(budget.take_retry(second + 0.5) for _ in range(50))
        assert paid == FREE_PER_SECOND


def test_purses_that_share_the_calls_pay_together_what_one_would() -> None:
    budgets = [Budget(1 / 4) for _ in range(4)]
    for index in range(1000):
        budgets[index % 4].deposit(5.0)
    paid = sum(budgets[index % 4].take_retry(5.0) for index in range(4000))
    assert paid == EXTRA_SHARE * 1000 + FREE
