"""A reader takes each event in once, and knows how many it never saw."""

from hypothesis import given
from hypothesis import strategies as st

from modelyard.events.progress import MOST_WRITERS, Progress

# Who wrote an entry, its first number, how many it holds.
entries = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(1, 12), st.integers(0, 5)), max_size=12
)


@given(entries)
def test_an_entry_is_taken_in_as_its_events_one_by_one_would_be(found) -> None:
    at_once, last = Progress(), {}
    taken, duplicates, lost = [], 0, 0
    for index, (writer, first, count) in enumerate(found):
        copies = at_once.take(f"{index}-0", writer, first, count)
        new = list(range(first + copies, first + count))
        for number in range(first, first + count):
            if number <= last.get(writer, number - 1):
                duplicates += 1
                continue
            lost += number - last.get(writer, number - 1) - 1
            last[writer] = number
            taken.append((writer, number))
            assert new.pop(0) == number
        assert not new
    assert (at_once.taken, at_once.duplicates, at_once.lost) == (len(taken), duplicates, lost)
    assert at_once.writers == last
    assert len(set(taken)) == len(taken)


def test_writers_that_are_gone_are_forgotten() -> None:
    progress = Progress()
    for number in range(MOST_WRITERS + 1):
        progress.take("1-0", f"w{number}", 1, 1)
    assert len(progress.writers) == MOST_WRITERS
    assert "w0" not in progress.writers


def test_an_entry_without_events_is_a_position_only() -> None:
    progress = Progress()
    assert progress.take("5-0", "", 0, 0) == 0
    assert (progress.position, progress.writers) == ("5-0", {})
