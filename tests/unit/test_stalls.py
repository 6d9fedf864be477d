"""When the machine itself stood still, as benchmarks are told of it."""

from benchmarks.stalls import joined, met


def test_stalls_of_several_processors_are_joined_where_they_overlap() -> None:
    assert joined([(5.0, 6.0), (1.0, 4.0), (2.0, 3.0), (4.0, 4.5)]) == [(1.0, 4.5), (5.0, 6.0)]


def test_no_stall_is_none() -> None:
    assert joined([]) == []
    assert not met([], 0.0, 1.0)


def test_a_call_met_a_stall_that_it_overlaps() -> None:
    stalls = [(1.0, 2.0), (5.0, 6.0)]
    assert met(stalls, 0.0, 1.5)
    assert met(stalls, 1.2, 1.3)
    assert met(stalls, 0.0, 9.0)
    assert met(stalls, 5.9, 7.0)


def test_a_call_before_between_or_after_met_none() -> None:
    stalls = [(1.0, 2.0), (5.0, 6.0)]
    assert not met(stalls, 0.0, 1.0)
    assert not met(stalls, 2.0, 4.9)
    assert not met(stalls, 6.0, 7.0)
