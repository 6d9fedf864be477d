"""Sequences: what calls say of them, and where they live."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sequences import IDLE, Place, Sequence, Sequences, sequence_of
from modelyard.errors import SequenceLost
from modelyard.names import VersionName

V1 = VersionName("digits", 1)
START, GOES_ON = Sequence(7, True, False), Sequence(7, False, False)


def place(now: float = 0.0, host: str = "h1") -> Place:
    return Place(V1, host, now)


def known(*identities: int | str, now: float = 0.0) -> Sequences:
    sequences = Sequences()
    for identity in identities:
        sequences.begin("digits", Sequence(identity, True, False), place(now))
    return sequences


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (None, None),
        ({}, None),
        ({"sequence_start": True}, None),
        ({"sequence_id": 0, "sequence_start": True}, None),
        ({"sequence_id": ""}, None),
        ({"sequence_id": True}, None),
        ({"sequence_id": 1.5}, None),
        ({"sequence_id": 7}, Sequence(7, False, False)),
        ({"sequence_id": 2**64 - 1}, Sequence(2**64 - 1, False, False)),
        ({"sequence_id": "talk-1"}, Sequence("talk-1", False, False)),
        ({"sequence_id": 7, "sequence_start": True}, Sequence(7, True, False)),
        ({"sequence_id": 7, "sequence_end": True}, Sequence(7, False, True)),
        ({"sequence_id": 7, "sequence_start": 1, "sequence_end": "x"}, Sequence(7, False, False)),
        (
            {"sequence_id": 7, "sequence_start": True, "sequence_end": True, "else": 1},
            Sequence(7, True, True),
        ),
    ],
)
def test_what_parameters_say(parameters, expected) -> None:
    assert sequence_of(parameters) == expected


def test_a_sequence_that_begins_lives_nowhere_yet() -> None:
    assert Sequences().find("digits", START, 0.0) is None


def test_it_stays_where_it_began() -> None:
    sequences = known(7)
    for now in (0.0, 100.0, 200.0):
        found = sequences.find("digits", GOES_ON, now)
        assert found is not None
        assert (found.version, found.host, found.heard) == (V1, "h1", now)


def test_one_that_was_never_begun_is_lost() -> None:
    with pytest.raises(SequenceLost, match=r"sequence 7 of 'digits' is not known here") as lost:
        Sequences().find("digits", GOES_ON, 0.0)
    assert lost.value.metadata == {"model": "digits", "sequence": "7"}


def test_models_have_their_own() -> None:
    with pytest.raises(SequenceLost):
        known(7).find("other", GOES_ON, 0.0)


def test_a_number_is_not_its_text() -> None:
    with pytest.raises(SequenceLost):
        known(7).find("digits", Sequence("7", False, False), 0.0)


def test_one_that_begins_again_forgets_its_place() -> None:
    sequences = known(7)
    assert sequences.find("digits", START, 1.0) is None
    with pytest.raises(SequenceLost):
        sequences.find("digits", GOES_ON, 1.0)
    sequences.begin("digits", START, place(1.0, "h2"))
    found = sequences.find("digits", GOES_ON, 2.0)
    assert found is not None
    assert found.host == "h2"


def test_one_that_ended_is_lost() -> None:
    sequences = known(7)
    sequences.end("digits", GOES_ON)
    sequences.end("digits", GOES_ON)
    with pytest.raises(SequenceLost):
        sequences.find("digits", GOES_ON, 0.0)


def test_one_that_was_idle_for_too_long_is_lost() -> None:
    assert known(7).find("digits", GOES_ON, IDLE) is not None
    with pytest.raises(SequenceLost):
        known(7).find("digits", GOES_ON, IDLE + 0.1)


def test_every_call_keeps_it_alive() -> None:
    sequences = known(7)
    for count in range(1, 10):
        assert sequences.find("digits", GOES_ON, count * IDLE) is not None


def test_idle_ones_make_room() -> None:
    sequences = known(1, 2, 3)
    sequences.find("digits", Sequence(1, False, False), IDLE)
    sequences.begin("digits", START, place(IDLE + 1))
    assert list(sequences._places) == [("digits", 1), ("digits", 7)]


def test_those_not_heard_of_for_longest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.sequences.MOST", 3)
    sequences = known(1, 2, 3)
    sequences.find("digits", Sequence(1, False, False), 1.0)
    sequences.begin("digits", Sequence(4, True, False), place(1.0))
    assert [identity for _, identity in sequences._places] == [3, 1, 4]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["begin", "find", "end"]),
            st.integers(1, 4),
            st.floats(0.0, 2 * IDLE / 3),
        )
    )
)
def test_any_history(history: list[tuple[str, int, float]]) -> None:
    """What is found is what a plain table of the last 300 s holds."""
    sequences, table, now = Sequences(), dict[int, tuple[str, float]](), 0.0
    for step, (act, identity, after) in enumerate(history):
        now += after
        goes_on = Sequence(identity, False, False)
        if act == "begin":
            begins = Sequence(identity, True, False)
            assert sequences.find("digits", begins, now) is None
            sequences.begin("digits", begins, place(now, f"h{step}"))
            table[identity] = (f"h{step}", now)
        elif act == "end":
            sequences.end("digits", goes_on)
            table.pop(identity, None)
        elif identity in table and now - table[identity][1] <= IDLE:
            found = sequences.find("digits", goes_on, now)
            assert found is not None
            assert found.host == table[identity][0]
            table[identity] = (found.host, now)
        else:
            with pytest.raises(SequenceLost):
                sequences.find("digits", goes_on, now)
