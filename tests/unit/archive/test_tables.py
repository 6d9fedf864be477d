"""Events of the log as rows of the archive."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.archive import tables
from modelyard.events.calls import pack
from modelyard.events.event import facts_of
from modelyard.events.v1 import event_pb2 as pb
from tests.kit.calls import MALFORMED, facts
from tests.kit.events import T0, call, feedback


def held(*events):
    if not events:
        return tables.calls_of([], [])
    packed = pack([facts_of(event) for event in events]).SerializeToString()
    return tables.calls_of([packed], [[f"w-{n}" for n in range(1, len(events) + 1)]])


def rows(*events):
    table = tables.calls_table([held(*events)])
    table.validate(full=True)
    return table.to_pylist()


def test_an_answered_call_tells_who_answered() -> None:
    (row,) = rows(call(3, version=4, metadata=[("x-user", "u")]))
    assert row["event_id"] == "w-1"
    assert row["time"] == T0 + timedelta(seconds=3)
    assert (row["version"], row["digest"], row["attempt"], row["host"]) == (
        4,
        "sha256:ab",
        "primary",
        "h",
    )
    assert (row["error"], row["message"], row["tenant"], row["schema"]) == (None,) * 4
    assert (row["deadline"], row["duration"]) == (1.0, 0.002)
    assert row["metadata"] == [("x-user", "u")]
    assert not row["redacted"]


def test_a_failed_call_tells_of_what() -> None:
    (row,) = rows(call(error="OVERLOADED"))
    assert (row["error"], row["message"]) == ("OVERLOADED", "it was OVERLOADED")
    assert (row["version"], row["digest"], row["attempt"], row["host"]) == (None,) * 4
    assert (row["response"], row["outputs"]) == (None, None)
    assert [a["outcome"] for a in row["attempts"]] == ["failed"]
    assert [a["error"] for a in row["attempts"]] == ["OVERLOADED"]


def test_the_digest_is_of_the_attempt_that_won() -> None:
    event = call(1)
    event.call.attempts[0].outcome = pb.Attempt.OUTCOME_LOST
    won = event.call.attempts.add(version="models/m/versions/2", digest="sha256:cd", kind="hedge")
    won.outcome = pb.Attempt.OUTCOME_WON
    nobody = call(2)
    del nobody.call.attempts[:]
    first, second, third = rows(event, nobody, call(3))
    assert [a["outcome"] for a in first["attempts"]] == ["lost", "won"]
    assert [a["end"] for a in first["attempts"]] == [0.002, None]
    assert [row["digest"] for row in (first, second, third)] == ["sha256:cd", None, "sha256:ab"]
    assert second["attempts"] == []


def test_a_constant_has_no_version() -> None:
    event = call()
    event.call.answer.served_by = "models/m"
    assert [row["version"] for row in rows(event, call(version=7))] == [None, 7]


def test_an_outcome_of_a_later_contract_is_null() -> None:
    event = call()
    event.call.attempts[0].outcome = 99
    assert rows(event)[0]["attempts"][0]["outcome"] is None


def test_binary_metadata_keeps_its_key() -> None:
    event = call(metadata=[("a", "")])
    event.call.metadata.add(key="b-bin", binary=b"\xff")
    assert rows(event)[0]["metadata"] == [("a", ""), ("b-bin", None)]


def test_what_an_event_leaves_out_is_not_made_up() -> None:
    event = pb.Event()
    event.call.request_id = "r"
    (row,) = rows(event)
    assert row["time"] == datetime(1970, 1, 1, tzinfo=UTC)
    assert (row["request"], row["inputs"], row["response"], row["outputs"]) == (b"", [], None, None)
    assert (row["deadline"], row["duration"], row["error"]) == (0.0, 0.0, "")


def test_a_deadline_of_ten_thousand_years_is_stored() -> None:
    event = call()
    event.call.deadline.seconds = 99_999_999 * 3600
    assert rows(event)[0]["deadline"] > 9e9


def test_truths_are_rows_of_feedback() -> None:
    truths = [feedback(1, y=[2.0], b="x"), feedback(2, y=[3.0])]
    truths[0].id, truths[1].id = "w-2", "w-4"
    assert [
        (row["event_id"], row["request_id"], row["output"], row["truth"])
        for row in tables.feedback_table(truths).to_pylist()
    ] == [
        ("w-2", "r-1", "b", '"x"'),
        ("w-2", "r-1", "y", "[2.0]"),
        ("w-4", "r-2", "y", "[3.0]"),
    ]
    assert {tables.day_of(event) for event in truths} == {"2026-03-01"}


def test_calls_are_parted_by_the_day_of_their_coming() -> None:
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    calls = held(
        call(1, time=midnight - timedelta(microseconds=1)),
        call(2, time=midnight),
        call(3, time=midnight - timedelta(hours=1)),
    )
    assert {day: of["event_id"].to_pylist() for day, of in tables.by_day(calls)} == {
        "2026-03-01": ["w-1", "w-3"],
        "2026-03-02": ["w-2"],
    }
    assert list(tables.by_day(held())) == []


def test_batches_are_one_table_in_their_order() -> None:
    table = tables.calls_table([held(call(n)) for n in range(3)])
    assert table["request_id"].to_pylist() == ["r-0", "r-1", "r-2"]
    inputs = [row[0]["numbers"][0] for row in table["inputs"].to_pylist()]
    assert inputs == [0.0, 1.0, 2.0]


def test_payloads_that_lie_elsewhere_are_put_in_place() -> None:
    away = call(1)
    away.call.request.reference = "2026-03-01T00/ab"
    calls = held(call(0), away)
    assert tables.references(calls, "request") == {1: "2026-03-01T00/ab"}
    assert tables.references(calls, "response") == {}
    whole = call(1).call.request.inline
    assert calls["request"].to_pylist()[1] is None
    calls = tables.with_payloads(calls, "request", {1: whole})
    table = tables.calls_table([calls])
    assert table["request"].to_pylist() == [call(0).call.request.inline, whole]
    assert table["inputs"].to_pylist()[1][0]["numbers"] == [1.0, 1.0]
    payloads = [call(n).call for n in (0, 1)]
    assert tables.size_of(calls) == sum(p.request.size + p.response.size for p in payloads)


def test_payloads_that_are_not_there_are_null() -> None:
    away, dropped = call(1), call(2)
    away.call.request.reference = "2026-03-01T00/ab"
    dropped.call.response.ClearField("place")
    dropped.call.response.redacted = True
    calls = held(call(0), away, dropped)
    assert [payload is None for payload in calls["request"].to_pylist()] == [False, True, False]
    assert [payload is None for payload in calls["response"].to_pylist()] == [False, False, True]
    table = tables.calls_table([calls])
    assert [row is None for row in table["inputs"].to_pylist()] == [False, True, False]
    assert table["redacted"].to_pylist() == [False, False, True]
    here = [
        call(0).call.request,
        call(0).call.response,
        call(1).call.response,
        call(2).call.request,
    ]
    assert tables.size_of(calls) == sum(payload.size for payload in here)


def test_the_same_numbers_come_out_whatever_the_datatype() -> None:
    inputs = {"a": np.array([True, False]), "b": np.int8([-3]), "c": np.float16([0.5])}
    (row,) = rows(call(inputs=inputs))
    assert [(t["datatype"], t["numbers"]) for t in row["inputs"]] == [
        ("BOOL", [1.0, 0.0]),
        ("INT8", [-3.0]),
        ("FP16", [0.5]),
    ]


@pytest.mark.parametrize(("calls", "complaint"), MALFORMED)
def test_what_parse_refuses_is_no_table_either(calls, complaint) -> None:
    del complaint
    with pytest.raises(ValueError):
        tables.calls_of([calls.SerializeToString()], [["w-1", "w-2"]])


@given(st.lists(st.lists(facts(), min_size=1, max_size=3), max_size=4))
def test_messages_together_are_what_each_is_alone(messages) -> None:
    # Whatever field one of them leaves out and another one does not.
    packed = [pack(calls).SerializeToString() for calls in messages]
    ids = [[f"{m}-{c}" for c in range(len(calls))] for m, calls in enumerate(messages)]
    alone = [tables.calls_of([one], [its]) for one, its in zip(packed, ids, strict=True)]
    together = tables.calls_of(packed, ids)
    assert together.to_pylist() == pa.Table.from_batches(alone, together.schema).to_pylist()
    calls = [call for some in messages for call in some]
    assert together["request_id"].to_pylist() == [call.request_id for call in calls]
    assert [len(held) for held in together["attempts"].to_pylist()] == [
        len(call.attempts) for call in calls
    ]
